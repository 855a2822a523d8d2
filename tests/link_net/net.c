#include "net.h"

/* One memory for input and output, as a generated network has: a run destroys its input. */
static union {
    net_input_t input[NET_INPUT_BYTES];
    net_output_t output[NET_OUTPUT_BYTES];
} arena;

net_input_t *net_input(void) { return arena.input; }

const net_output_t *net_output(void) { return arena.output; }

static uint32_t hash(uint32_t seed) {
    for (int32_t i = 0; i < NET_INPUT_BYTES; ++i) {
        seed = (seed ^ (uint8_t)arena.input[i]) * 16777619u;
    }
    return seed;
}

void net_run(void) {
    const uint32_t words[2] = {hash(2166136261u), hash(1u)};
    for (int32_t i = 0; i < NET_INPUT_BYTES; ++i) {
        arena.input[i] = (net_input_t)i;
    }
    for (int32_t i = 0; i < NET_OUTPUT_BYTES; ++i) {
        arena.output[i] = (net_output_t)(words[i / 4] >> (8 * (i % 4)));
    }
}

#ifdef SELF_TEST
int net_self_test(void) { return SELF_TEST; }
#endif
#ifdef DECIDES
int32_t net_decide(const net_output_t *output) { return output[0] < 128 ? -1 : output[1] & 3; }
#endif
