/* Mean of each channel against the mean of all; see net.h. */
#include "net.h"

enum { PIXELS = NET_INPUT_HEIGHT * NET_INPUT_WIDTH, LOWEST = -128, HIGHEST = 127 };

static net_input_t pixels[NET_INPUT_BYTES];
static net_output_t scores[NET_OUTPUT_BYTES];

net_input_t *net_input(void) { return pixels; }

const net_output_t *net_output(void) { return scores; }

void net_run(void) {
    int32_t sums[NET_INPUT_CHANNELS] = {0, 0, 0}, all = 0;
    for (int32_t i = 0; i < NET_INPUT_BYTES; ++i) {
        sums[i % NET_INPUT_CHANNELS] += pixels[i];
        all += pixels[i];
    }
    for (int32_t c = 0; c < NET_INPUT_CHANNELS; ++c) {
        const int32_t score = (NET_INPUT_CHANNELS * sums[c] - all) / NET_INPUT_BYTES;
        scores[c] = (net_output_t)(score < LOWEST ? LOWEST : score > HIGHEST ? HIGHEST : score);
    }
}
