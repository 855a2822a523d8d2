/* The host: standard output, no instruction counter, no painted stack, the link on standard input and output. */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void ed_port_init(void) {}

void ed_port_write(const void *bytes, size_t size) {
    if (fwrite(bytes, 1, size, stdout) != size) {
        exit(3);
    }
}

void ed_port_print(const char *text) { ed_port_write(text, strlen(text)); }

void ed_port_report(const char *name, uint32_t value) { printf("%s=%lu\n", name, (unsigned long)value); }

void ed_port_exit(int status) {
    fflush(stdout);
    exit(status);
}

void ed_port_count_start(void) {}

uint32_t ed_port_count(void) { return 0; }

uint32_t ed_port_microseconds(void) { return (uint32_t)((double)clock() * (1e6 / (double)CLOCKS_PER_SEC)); }

void ed_port_stack_paint(void) {}

uint32_t ed_port_stack_used(void) { return 0; }

void ed_port_uart_send(uint8_t byte) {
    ed_port_write(&byte, 1);
    fflush(stdout);
}

int ed_port_uart_receive(void) { return getchar(); }
