/* DEPTHWISE_CONV_2D of any window, stride, dilation and multiplier. Weights: [tap][output]. */
#include "ed_inside.h"

#if defined(ED_HELIUM)
#include "ed_depthwise_helium.h"
#elif defined(ED_DSP)
#include "ed_depthwise_dsp.h"
#endif

static int32_t sum_taps(const struct ed_depthwise *p, const struct ed_rows *in, int32_t y, int32_t x, int32_t output) {
    const struct ed_window *w = &p->window;
    const int32_t outputs = w->channels * p->multiplier;
    const int8_t *weights = p->weights + output;
    const int32_t channel = output / p->multiplier;
    int32_t sum = p->bias[output];
    for (int32_t i = 0; i < w->taps_y; ++i) {
        const int32_t row = y * w->stride_y - w->pad_top + i * w->dilation_y;
        const int row_there = row >= 0 && row < in->count;
        const int8_t *from = row_there ? ed_row(in, row) + channel : in->base;
        for (int32_t j = 0; j < w->taps_x; ++j, weights += outputs) {
            const int32_t column = x * w->stride_x - w->pad_left + j * w->dilation_x;
            const int there = row_there && column >= 0 && column < w->width;
            sum = ed_mac(sum, there ? from[column * w->channels] : w->in_zero, *weights);
        }
    }
    return sum;
}

void ed_depthwise(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count) {
    const int32_t outputs = p->window.channels * p->multiplier;
#if defined(ED_HELIUM)
    if (ed_depthwise_helium(p, in, out, first, count)) {
        return;
    }
#elif defined(ED_DSP)
    if (ed_depthwise_dsp(p, in, out, first, count)) {
        return;
    }
#endif
    for (int32_t y = first; y < first + count; ++y) {
        for (int32_t x = 0; x < p->window.out_width; ++x) {
            for (int32_t output = 0; output < outputs; ++output) {
                const int32_t sum = ed_rescale(sum_taps(p, in, y, x, output), &p->scale[output]);
                *out++ = ed_place(sum, p->zero, p->low, p->high);
            }
        }
    }
}
