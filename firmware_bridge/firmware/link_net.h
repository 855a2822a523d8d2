/* The generated network behind the link, for a main of your own: start once, then poll for ever.
 *
 * Needs three functions of port.h: ed_port_uart_receive (-1: nothing has come), ed_port_uart_send, ed_port_microseconds. */
#ifndef ED_LINK_NET_H
#define ED_LINK_NET_H

#ifdef __cplusplus
extern "C" {
#endif

/* Runs the network's self-test, if it has one, and gets ready. */
void ed_link_net_start(void);

/* Takes at most one byte from the UART; a RUN computes before it returns. 0 when the port is closed for good. */
int ed_link_net_poll(void);

#ifdef __cplusplus
}
#endif

#endif
