/* main() of a device that serves a generated network over its UART. */
#include "link_net.h"
#include "port.h"

int main(void) {
    ed_port_init();
    ed_link_net_start();
    while (ed_link_net_poll()) {
    }
    return 0;
}
