/* Depthwise convolution of any window on Helium, eight channels at a time. Part of ed_depthwise.c.
 *
 * Products of halves go to two vectors of words, of the even and of the odd channels. A tap outside the input is a
 * vector of the input's zero point. */
#ifndef ED_DEPTHWISE_HELIUM_H
#define ED_DEPTHWISE_HELIUM_H

#include "ed_inside.h"

#include <arm_mve.h>

enum { ED_DW_TAPS = 25 };

struct ed_dw_eight {
    int16_t weights[ED_DW_TAPS * 8];
    int32_t bias[8], scale[16]; /* as in the layer: multiplier, shift */
    mve_pred16_t channels;      /* fewer than eight in the last group */
};

/* Two vectors of sums -> TFLite's two roundings, zero point, limits, and out. */
static inline void ed_dw_finish(const struct ed_depthwise *p, const struct ed_dw_eight *eight, int32x4_t even, int32x4_t odd,
                                int8_t *out) {
    const int32x4x4_t scale = vld4q_s32(eight->scale);
    even = vqrdmulhq_s32(even, scale.val[0]);
    even = vaddq_s32(even, vshrq_n_s32(vandq_s32(even, scale.val[1]), 31)); /* halves away from zero, if it shifts */
    even = vrshlq_s32(even, scale.val[1]);
    odd = vqrdmulhq_s32(odd, scale.val[2]);
    odd = vaddq_s32(odd, vshrq_n_s32(vandq_s32(odd, scale.val[3]), 31));
    odd = vrshlq_s32(odd, scale.val[3]);
    int16x8_t both = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
    both = vqaddq_n_s16(both, (int16_t)p->zero);
    both = vminq_s16(vmaxq_s16(both, vdupq_n_s16((int16_t)p->low)), vdupq_n_s16((int16_t)p->high));
    vstrbq_p_s16(out, both, eight->channels);
}

#define ED_DW_ADD_TAP(x, w)                                                                                            \
    do {                                                                                                               \
        const int16x8_t taken = (x), weight = (w);                                                                     \
        even = vaddq_s32(even, vmullbq_int_s16(taken, weight));                                                        \
        odd = vaddq_s32(odd, vmulltq_int_s16(taken, weight));                                                          \
    } while (0)

/* Outputs [from, to) of a row; their taps may lie outside. */
static void ed_dw_border(const struct ed_depthwise *p, const struct ed_dw_eight *eight, const int8_t *const *rows,
                         int32_t from, int32_t to, int8_t *out) {
    const struct ed_window *w = &p->window;
    const int16x8_t zero = vdupq_n_s16((int16_t)w->in_zero);
    for (int32_t x = from; x < to; ++x) {
        const int32x4x2_t bias = vld2q_s32(eight->bias);
        int32x4_t even = bias.val[0], odd = bias.val[1];
        const int16_t *weights = eight->weights;
        for (int32_t i = 0; i < w->taps_y; ++i) {
            int32_t column = x * w->stride_x - w->pad_left;
            for (int32_t j = 0; j < w->taps_x; ++j, column += w->dilation_x, weights += 8) {
                const int there = rows[i] && column >= 0 && column < w->width;
                ED_DW_ADD_TAP(there ? vldrbq_z_s16(rows[i] + column * w->channels, eight->channels) : zero,
                              vldrhq_s16(weights));
            }
        }
        ed_dw_finish(p, eight, even, odd, out + x * w->channels);
    }
}

/* The same where three by three taps all lie inside. */
static void ed_dw_inside3(const struct ed_depthwise *p, const struct ed_dw_eight *eight, const int8_t *const *rows,
                          int32_t from, int32_t to, int8_t *out) {
    const struct ed_window *w = &p->window;
    const int32_t next = w->dilation_x * w->channels, step = w->stride_x * w->channels;
    const int32_t start = (from * w->stride_x - w->pad_left) * w->channels;
    const int8_t *a = rows[0] + start, *b = rows[1] + start, *c = rows[2] + start;
    out += from * w->channels;
    for (; from < to; ++from, a += step, b += step, c += step, out += w->channels) {
        const int32x4x2_t bias = vld2q_s32(eight->bias);
        int32x4_t even = bias.val[0], odd = bias.val[1];
        ED_DW_ADD_TAP(vldrbq_s16(a), vldrhq_s16(eight->weights));
        ED_DW_ADD_TAP(vldrbq_s16(a + next), vldrhq_s16(eight->weights + 8));
        ED_DW_ADD_TAP(vldrbq_s16(a + 2 * next), vldrhq_s16(eight->weights + 16));
        ED_DW_ADD_TAP(vldrbq_s16(b), vldrhq_s16(eight->weights + 24));
        ED_DW_ADD_TAP(vldrbq_s16(b + next), vldrhq_s16(eight->weights + 32));
        ED_DW_ADD_TAP(vldrbq_s16(b + 2 * next), vldrhq_s16(eight->weights + 40));
        ED_DW_ADD_TAP(vldrbq_s16(c), vldrhq_s16(eight->weights + 48));
        ED_DW_ADD_TAP(vldrbq_s16(c + next), vldrhq_s16(eight->weights + 56));
        ED_DW_ADD_TAP(vldrbq_s16(c + 2 * next), vldrhq_s16(eight->weights + 64));
        ed_dw_finish(p, eight, even, odd, out);
    }
}

static void ed_dw_prepare(const struct ed_depthwise *p, int32_t channel, struct ed_dw_eight *eight) {
    const struct ed_window *w = &p->window;
    const int32_t left = w->channels - channel, lanes = left < 8 ? left : 8;
    const int8_t *weights = p->weights + channel;
    eight->channels = vctp16q((uint32_t)lanes);
    memset(eight->bias, 0, sizeof eight->bias);
    memset(eight->scale, 0, sizeof eight->scale);
    memcpy(eight->bias, p->bias + channel, (size_t)lanes * sizeof *eight->bias);
    memcpy(eight->scale, p->scale + channel, (size_t)lanes * sizeof *p->scale);
    for (int32_t tap = 0; tap < w->taps_y * w->taps_x; ++tap, weights += w->channels) {
        vstrhq_s16(eight->weights + 8 * tap, vldrbq_z_s16(weights, eight->channels));
    }
}

/* The output columns whose taps all lie inside: [*from, *to). */
static void ed_dw_find_inside(const struct ed_window *w, int32_t *from, int32_t *to) {
    const int32_t room = w->width - 1 - (w->taps_x - 1) * w->dilation_x + w->pad_left;
    *from = (w->pad_left + w->stride_x - 1) / w->stride_x;
    *to = room < 0 ? 0 : room / w->stride_x + 1;
    *to = *to > w->out_width ? w->out_width : *to;
    *from = *from > *to ? *to : *from;
}

/* Returns 0, nothing done, if the layer is not of the kind that this file knows. */
static int ed_depthwise_helium(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first,
                               int32_t count) {
    const struct ed_window *w = &p->window;
    struct ed_dw_eight eight;
    int32_t from, to;
    if (!p->fast || p->multiplier != 1 || w->taps_y * w->taps_x > ED_DW_TAPS) {
        return 0;
    }
    ed_dw_find_inside(w, &from, &to);
    for (int32_t channel = 0; channel < w->channels; channel += 8) {
        ed_dw_prepare(p, channel, &eight);
        for (int32_t y = first; y < first + count; ++y) {
            const int8_t *rows[ED_DW_TAPS];
            int8_t *to_row = out + (y - first) * w->out_width * w->channels + channel;
            int whole = w->taps_y == 3 && w->taps_x == 3 && channel + 8 <= w->channels;
            for (int32_t i = 0; i < w->taps_y; ++i) {
                const int32_t row = y * w->stride_y - w->pad_top + i * w->dilation_y;
                rows[i] = row >= 0 && row < in->count ? ed_row(in, row) + channel : 0;
                whole = whole && rows[i];
            }
            if (whole) {
                ed_dw_border(p, &eight, rows, 0, from, to_row);
                ed_dw_inside3(p, &eight, rows, from, to, to_row);
                ed_dw_border(p, &eight, rows, to, w->out_width, to_row);
            } else {
                ed_dw_border(p, &eight, rows, 0, w->out_width, to_row);
            }
        }
    }
    return 1;
}

#endif
