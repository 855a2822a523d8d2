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
    const int32_t *bias, *scale;   /* as in the layer: multiplier, shift, multiplier, shift ... */
    int32_t last_bias[8], last_scale[16]; /* for a last group of fewer than eight channels */
    mve_pred16_t channels;
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
static void ed_dw_any(const struct ed_depthwise *p, const struct ed_dw_eight *eight, const int8_t *const *rows,
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

/* What ed_dw_nine reads, in its order: eight channels of three by three taps. */
struct ed_dw_work {
    const int8_t *rows[3];
    int8_t *out;
    int32_t next[3], step[3]; /* bytes to the next tap of a row, to the next output's first */
    int32_t out_step, zero, count, limits[2];
    int32_t unused;
    int16_t weights[9 * 8];
    int32_t bias[2][4], scale[4][4]; /* even, odd; multipliers and shifts of even, of odd channels */
};

#define ED_DW_NINE_TAP(from, w)                                                                                        \
    "vldrb.s16 q2,[" from "]\n"                                                                                     \
    "vldrh.u16 q3,[r5,#" w "]\n"                                                                                   \
    "vmullb.s16 q4,q2,q3\n"                                                                                        \
    "vmullt.s16 q5,q2,q3\n"                                                                                        \
    "vadd.i32 q0,q0,q4\n"                                                                                          \
    "vadd.i32 q1,q1,q5\n"
#define ED_DW_NINE_ROW(row, next, step, w0, w1, w2)                                                                    \
    ED_DW_NINE_TAP(row, w0)                                                                                            \
    "add.w r0," row "," next "\n" ED_DW_NINE_TAP("r0", w1) "add.w r0,r0," next "\n" ED_DW_NINE_TAP("r0", w2)   \
    "add.w " row "," row "," step "\n"
/* TFLite's two roundings; halves away from zero only where a shift follows. */
#define ED_DW_NINE_SCALE(q, multiplier, shift)                                                                         \
    "vldrw.u32 q2,[r6,#" multiplier "]\n"                                                                          \
    "vldrw.u32 q3,[r6,#" shift "]\n"                                                                               \
    "vqrdmulh.s32 " q "," q ",q2\n"                                                                                \
    "vand q4," q ",q3\n"                                                                                           \
    "vshr.s32 q4,q4,#31\n"                                                                                         \
    "vadd.i32 " q "," q ",q4\n"                                                                                    \
    "vrshl.s32 " q "," q ",q3\n"

/* `count` outputs: q0 sums of the even channels, q1 of the odd. r7 may be the frame pointer and is kept by hand. */
static void ed_dw_nine(const struct ed_dw_work *work) {
    register const struct ed_dw_work *r0 __asm__("r0") = work;
    __asm__ volatile("push {r7}\n"
                     "add.w r5,r0,#64\n"
                     "add.w r6,r5,#144\n"
                     "ldrd r1,r2,[r0,#52]\n"
                     "vdup.16 q6,r1\n"
                     "vdup.16 q7,r2\n"
                     "ldr.w r7,[r0,#48]\n"
                     "ldmia r0,{r1-r4,r8-r12,lr}\n"
                     "1:\n"
                     "vldrw.u32 q0,[r6]\n"
                     "vldrw.u32 q1,[r6,#16]\n"
                     ED_DW_NINE_ROW("r1", "r8", "r11", "0", "16", "32")
                     ED_DW_NINE_ROW("r2", "r9", "r12", "48", "64", "80")
                     ED_DW_NINE_ROW("r3", "r10", "lr", "96", "112", "128")
                     ED_DW_NINE_SCALE("q0", "32", "48") ED_DW_NINE_SCALE("q1", "64", "80")
                     "ldr r0,[r5,#-20]\n" /* zero */
                     "vqmovnb.s32 q2,q0\n"
                     "vqmovnt.s32 q2,q1\n"
                     "vqadd.s16 q2,q2,r0\n"
                     "vmax.s16 q2,q2,q6\n"
                     "vmin.s16 q2,q2,q7\n"
                     "ldr r0,[r5,#-24]\n" /* out_step */
                     "vstrb.16 q2,[r4]\n"
                     "add r4,r4,r0\n"
                     "subs r7,r7,#1\n"
                     "bne.w 1b\n"
                     "pop {r7}\n"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory", "d0", "d1",
                       "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11", "d12", "d13", "d14", "d15");
}

static void ed_dw_nine_prepare(const struct ed_depthwise *p, int32_t channel, struct ed_dw_work *work) {
    const int8_t *weights = p->weights + channel;
    const int32x4x2_t bias = vld2q_s32(p->bias + channel);
    const int32x4x4_t scale = vld4q_s32(&p->scale[channel].multiplier);
    vstrwq_s32(work->bias[0], bias.val[0]);
    vstrwq_s32(work->bias[1], bias.val[1]);
    vstrwq_s32(work->scale[0], scale.val[0]);
    vstrwq_s32(work->scale[1], scale.val[1]);
    vstrwq_s32(work->scale[2], scale.val[2]);
    vstrwq_s32(work->scale[3], scale.val[3]);
    for (int16_t *to = work->weights; to != work->weights + 72; to += 8, weights += p->window.channels) {
        vstrhq_s16(to, vldrbq_s16(weights));
    }
}

/* Outputs [from, to) of a row, some of whose columns are outside: one by one from a copy of their taps. */
static void ed_dw_nine_border(const struct ed_window *w, const int8_t *const *rows, int32_t from, int32_t to, int8_t *out,
                              struct ed_dw_work *work) {
    const int16x8_t zero = vdupq_n_s16((int16_t)w->in_zero);
    int8_t taps[9 * 8];
    work->count = 1;
    for (int32_t i = 0; i < 3; ++i) {
        work->next[i] = 8;
        work->step[i] = 0;
    }
    for (int32_t x = from; x < to; ++x) {
        int32_t column = x * w->stride_x - w->pad_left;
        for (int8_t *tap = taps; tap != taps + 24; tap += 8, column += w->dilation_x) {
            const int there = column >= 0 && column < w->width;
            const int32_t offset = column * w->channels;
            vstrbq_s16(tap, there && rows[0] ? vldrbq_s16(rows[0] + offset) : zero);
            vstrbq_s16(tap + 24, there && rows[1] ? vldrbq_s16(rows[1] + offset) : zero);
            vstrbq_s16(tap + 48, there && rows[2] ? vldrbq_s16(rows[2] + offset) : zero);
        }
        work->rows[0] = taps;
        work->rows[1] = taps + 24;
        work->rows[2] = taps + 48;
        work->out = out + x * w->channels;
        ed_dw_nine(work);
    }
}

/* The same where all columns lie inside. A missing row is eight zero points, and stays where it is. */
static void ed_dw_nine_inside(const struct ed_window *w, const int8_t *const *rows, int32_t from, int32_t to, int8_t *out,
                              struct ed_dw_work *work) {
    const int32_t start = (from * w->stride_x - w->pad_left) * w->channels;
    int8_t zeros[8];
    if (from == to) {
        return;
    }
    vstrbq_s16(zeros, vdupq_n_s16((int16_t)w->in_zero));
    for (int32_t i = 0; i < 3; ++i) {
        work->rows[i] = rows[i] ? rows[i] + start : zeros;
        work->next[i] = rows[i] ? w->dilation_x * w->channels : 0;
        work->step[i] = rows[i] ? w->stride_x * w->channels : 0;
    }
    work->count = to - from;
    work->out = out + from * w->channels;
    ed_dw_nine(work);
}

static void ed_dw_prepare(const struct ed_depthwise *p, int32_t channel, struct ed_dw_eight *eight) {
    const struct ed_window *w = &p->window;
    const int32_t lanes = w->channels - channel;
    const int8_t *weights = p->weights + channel;
    int16_t *to = eight->weights;
    eight->channels = vctp16q((uint32_t)lanes);
    eight->bias = p->bias + channel;
    eight->scale = &p->scale[channel].multiplier;
    for (int32_t tap = w->taps_y * w->taps_x; tap > 0; --tap, weights += w->channels, to += 8) {
        vstrhq_s16(to, vldrbq_z_s16(weights, eight->channels));
    }
    if (lanes < 8) {
        memset(eight->last_bias, 0, sizeof eight->last_bias);
        memset(eight->last_scale, 0, sizeof eight->last_scale);
        memcpy(eight->last_bias, eight->bias, (size_t)lanes * sizeof *eight->bias);
        memcpy(eight->last_scale, eight->scale, (size_t)lanes * sizeof *p->scale);
        eight->bias = eight->last_bias;
        eight->scale = eight->last_scale;
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

/* The input rows of output row y, from `channel` on; null pointers outside the input. */
static void ed_dw_find_rows(const struct ed_window *w, const struct ed_rows *in, int32_t y, int32_t channel,
                            const int8_t **rows) {
    for (int32_t i = 0; i < w->taps_y; ++i) {
        const int32_t row = y * w->stride_y - w->pad_top + i * w->dilation_y;
        rows[i] = row >= 0 && row < in->count ? ed_row(in, row) + channel : 0;
    }
}

/* Eight channels of three by three taps. */
static void ed_dw_nine_rows(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first,
                            int32_t count, int32_t channel) {
    const struct ed_window *w = &p->window;
    struct ed_dw_work work;
    const int8_t *rows[3];
    int32_t from, to;
    ed_dw_find_inside(w, &from, &to);
    work.out_step = w->channels;
    work.zero = p->zero;
    work.limits[0] = p->low;
    work.limits[1] = p->high;
    ed_dw_nine_prepare(p, channel, &work);
    for (int32_t y = first; y < first + count; ++y, out += w->out_width * w->channels) {
        ed_dw_find_rows(w, in, y, channel, rows);
        ed_dw_nine_border(w, rows, 0, from, out + channel, &work);
        ed_dw_nine_inside(w, rows, from, to, out + channel, &work);
        ed_dw_nine_border(w, rows, to, w->out_width, out + channel, &work);
    }
}

static void ed_dw_any_rows(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first,
                           int32_t count, int32_t channel) {
    const struct ed_window *w = &p->window;
    struct ed_dw_eight eight;
    const int8_t *rows[ED_DW_TAPS];
    ed_dw_prepare(p, channel, &eight);
    for (int32_t y = first; y < first + count; ++y, out += w->out_width * w->channels) {
        ed_dw_find_rows(w, in, y, channel, rows);
        ed_dw_any(p, &eight, rows, 0, w->out_width, out + channel);
    }
}

/* Returns 0, nothing done, if the layer is not of the kind that this file knows. */
static int ed_depthwise_helium(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first,
                               int32_t count) {
    const struct ed_window *w = &p->window;
    if (!p->fast || p->multiplier != 1 || w->taps_y * w->taps_x > ED_DW_TAPS) {
        return 0;
    }
    for (int32_t channel = 0; channel < w->channels; channel += 8) {
        if (w->taps_y == 3 && w->taps_x == 3 && channel + 8 <= w->channels) {
            ed_dw_nine_rows(p, in, out, first, count, channel);
        } else {
            ed_dw_any_rows(p, in, out, first, count, channel);
        }
    }
    return 1;
}

#endif
