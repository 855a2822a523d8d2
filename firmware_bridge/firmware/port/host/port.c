/* The host: standard output, no instruction counter, no painted stack, the link on standard input and output. */
#define _POSIX_C_SOURCE 200112L
#include "port.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void ed_port_init(void) {}

static int uart_in_use;

void ed_port_write(const void *bytes, size_t size) {
    if (fwrite(bytes, 1, size, uart_in_use ? stderr : stdout) != size) {
        exit(3);
    }
}

void ed_port_print(const char *text) { ed_port_write(text, strlen(text)); }

void ed_port_report(const char *name, uint32_t value) {
    fprintf(uart_in_use ? stderr : stdout, "%s=%lu\n", name, (unsigned long)value);
}

void ed_port_exit(int status) {
    fflush(stdout);
    exit(status);
}

void ed_port_count_start(void) {}

uint32_t ed_port_count(void) { return 0; }

uint32_t ed_port_microseconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u);
}

void ed_port_stack_paint(void) {}

uint32_t ed_port_stack_used(void) { return 0; }

/* Sent bytes are collected until the zero that ends a frame of the link, or until the program asks for input. */
static uint8_t sent[4096];
static size_t sent_size;

static void flush_sent(void) {
    for (size_t at = 0; at < sent_size;) {
        const ssize_t wrote = write(STDOUT_FILENO, sent + at, sent_size - at);
        if (wrote <= 0) {
            exit(3);
        }
        at += (size_t)wrote;
    }
    sent_size = 0;
}

void ed_port_uart_send(uint8_t byte) {
    uart_in_use = 1;
    sent[sent_size++] = byte;
    if (sent_size == sizeof sent || (byte == 0 && sent_size > 1)) {
        flush_sent();
    }
}

int ed_port_uart_receive(void) {
    static uint8_t come[4096];
    static ssize_t come_size, at;
    uart_in_use = 1;
    if (at == come_size) {
        struct pollfd input = {STDIN_FILENO, POLLIN, 0};
        flush_sent();
        if (poll(&input, 1, 1) <= 0) {
            return -1;
        }
        at = 0;
        come_size = read(STDIN_FILENO, come, sizeof come);
        if (come_size <= 0) {
            come_size = 0;
            return ED_PORT_CLOSED;
        }
    }
    return come[at++];
}
