/* A generated network served over a UART: see link_net.h. The board's port has the UART and the clock.
 *
 * Built with the generated folder's net.h and net.c. Optional macros of net.h: NET_LABELS_SHA256 (64 hex digits),
 * NET_SELF_TEST (there is net_self_test(), 0 = passed), NET_DECISION (there is net_decide()). */
#include "link_net.h"
#include "link_serve.h"
#include "net.h"
#include "port.h"

#include <string.h>

#ifndef NET_LABELS_SHA256
#define NET_LABELS_SHA256 ""
#endif

/* Room for the largest answer, and for chunks of input that make a frame's overhead small. */
enum {
    CHUNK = 512,
    ANSWER = ED_LINK_OUTPUT_HEAD_BYTES + NET_OUTPUT_BYTES,
    MAX_PAYLOAD = ANSWER > CHUNK ? ANSWER : CHUNK
};

static uint8_t frame[ED_LINK_FRAME_BYTES(MAX_PAYLOAD)];
static uint8_t wire[ED_LINK_WIRE_BYTES(MAX_PAYLOAD)];
static uint8_t answer[MAX_PAYLOAD];
static uint8_t description[ED_LINK_DESCRIPTION_BYTES];

static void store_digest(uint8_t *bytes, const char *hex) {
    for (size_t i = 0; hex[i] != '\0' && i < 64; ++i) {
        const char digit = hex[i];
        const unsigned value = (unsigned)(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
        bytes[i / 2] = (uint8_t)((unsigned)bytes[i / 2] << 4 | value);
    }
}

/* Type, rank, shape, scale, zero point; a constant of the program, so no floating-point instruction is needed. */
static void store_tensor(uint8_t *bytes, int is_signed, const uint32_t shape[4], uint32_t rank, float scale,
                         int32_t zero) {
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    bytes[0] = is_signed ? 1 : 2;
    bytes[1] = (uint8_t)rank;
    for (uint32_t i = 0; i < 4; ++i) {
        ed_link_store(bytes + 4 + 4 * i, shape[i], 4);
    }
    ed_link_store(bytes + 20, bits, 4);
    ed_link_store(bytes + 24, (uint32_t)zero, 4);
}

static uint8_t self_check(void) {
#ifdef NET_SELF_TEST
    return net_self_test() == 0 ? ED_LINK_PASSED : ED_LINK_FAILED;
#else
    return ED_LINK_UNCHECKED;
#endif
}

static void describe(void) {
#ifdef NET_INPUT_HEIGHT
    static const uint32_t in[4] = {1, NET_INPUT_HEIGHT, NET_INPUT_WIDTH, NET_INPUT_CHANNELS}, in_rank = 4;
#else
    static const uint32_t in[4] = {1, NET_INPUT_BYTES, 1, 1}, in_rank = 2;
#endif
    static const uint32_t out[4] = {1, NET_OUTPUT_BYTES, 1, 1};
    store_digest(description, NET_MODEL_SHA256);
    store_digest(description + 32, NET_LABELS_SHA256);
    ed_link_store(description + 64, MAX_PAYLOAD, 2);
    description[ED_LINK_SELF_CHECK_AT] = self_check();
#ifdef NET_DECISION
    description[ED_LINK_SELF_CHECK_AT + 1] = 1;
#endif
    store_tensor(description + 68, (net_input_t)-1 < 0, in, in_rank, (float)NET_INPUT_SCALE, NET_INPUT_ZERO);
    store_tensor(description + 96, (net_output_t)-1 < 0, out, 2, (float)NET_OUTPUT_SCALE, NET_OUTPUT_ZERO);
}

static uint8_t *input(void) { return (uint8_t *)net_input(); }

static int32_t run(uint8_t *output) {
    net_run();
    memcpy(output, net_output(), NET_OUTPUT_BYTES);
#ifdef NET_DECISION
    return net_decide(net_output());
#else
    return ED_LINK_UNDECIDED;
#endif
}

static void send(const uint8_t *bytes, uint32_t size) {
    for (uint32_t i = 0; i < size; ++i) {
        ed_port_uart_send(bytes[i]);
    }
}

static const struct ed_link_device device = {
    description, NET_INPUT_BYTES, NET_OUTPUT_BYTES, input, run, ed_port_microseconds, send,
};
static struct ed_link_server server;

void ed_link_net_start(void) {
    describe();
    ed_link_server_init(&server, &device, frame, wire, answer, MAX_PAYLOAD);
}

int ed_link_net_poll(void) {
    const int byte = ed_port_uart_receive();
    if (byte >= 0) {
        ed_link_server_feed(&server, (uint8_t)byte);
    }
    return byte != ED_PORT_CLOSED;
}
