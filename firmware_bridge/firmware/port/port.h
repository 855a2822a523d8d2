/* What a test or measuring program needs of the machine it runs on; the inference code itself needs nothing.
 *
 * One implementation for the host (port/host), one for every Cortex-M board (port/cortex_m + port/<board>). */
#ifndef ED_PORT_H
#define ED_PORT_H

#include <stddef.h>
#include <stdint.h>

void ed_port_init(void);

/* Raw bytes to whoever started the program: standard output on the host, semihosting on a board. */
void ed_port_write(const void *bytes, size_t size);
void ed_port_print(const char *text);
/* Prints "name=value\n". */
void ed_port_report(const char *name, uint32_t value);
void ed_port_exit(int status);

/* Instructions executed since ed_port_count_start, in steps of one timer tick (32 to 50 instructions).
 * Meaningful only under the emulator with -icount shift=0; on the host 0. */
void ed_port_count_start(void);
uint32_t ed_port_count(void);

/* Free-running microseconds for device_us of the link; wraps. On an emulated board: virtual time. */
uint32_t ed_port_microseconds(void);

/* Paint the free part of the stack, later ask how many bytes below the painter were used since (up to 32 too many). */
void ed_port_stack_paint(void);
uint32_t ed_port_stack_used(void);

/* UART of the link: bytes in and out. Receive returns -1 when nothing has come; on the host, whose UART is standard
 * input and output, it waits a millisecond first, returns ED_PORT_CLOSED at the end of input, and from the first use of
 * the UART on ed_port_write goes to standard error. */
enum { ED_PORT_CLOSED = -2 };
void ed_port_uart_send(uint8_t byte);
int ed_port_uart_receive(void);

#endif
