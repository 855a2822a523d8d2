/* Products on Helium: sixteen inputs of two outputs and four pixels at a time. Part of ed_product.c. */
#ifndef ED_PRODUCT_HELIUM_H
#define ED_PRODUCT_HELIUM_H

#include "ed_inside.h"

#include <arm_mve.h>

/* Four pixels: their inputs, and where their outputs lie. */
struct ed_four {
    const int8_t *in[4];
    uint32x4_t at;
};

/* Four sums of one output -> TFLite's two roundings, zero point, limits, and out. */
static inline void ed_four_finish(const struct ed_product *p, int32_t output, int32x4_t sums, uint32x4_t at, int8_t *out) {
    const struct ed_scale *scale = &p->scale[output];
    int32x4_t v = vqrdmulhq_n_s32(sums, scale->multiplier);
    v = vaddq_s32(v, vshrq_n_s32(v, 31)); /* halves away from zero */
    v = vaddq_n_s32(vrshlq_n_s32(v, scale->shift), p->zero);
    v = vminq_s32(vmaxq_s32(v, vdupq_n_s32(p->low)), vdupq_n_s32(p->high));
    vstrbq_scatter_offset_s32(out + output, at, v);
}

static inline int32x4_t ed_four_sums(int32_t a, int32_t b, int32_t c, int32_t d) {
    int32x4_t v = vdupq_n_s32(a);
    v = vsetq_lane_s32(b, v, 1);
    v = vsetq_lane_s32(c, v, 2);
    return vsetq_lane_s32(d, v, 3);
}

static void ed_four_pixels(const struct ed_product *p, const struct ed_four *four, int8_t *out) {
    const int32_t pair_bytes = (p->depth + 3) / 4 * 8, rest = p->depth % 16;
    const mve_pred16_t last = vctp8q((uint32_t)rest);
    const int8_t *weights = p->weights;
    for (int32_t output = 0; output < p->outputs; output += 2, weights += pair_bytes) {
        const int8_t *w = weights, *x0 = four->in[0], *x1 = four->in[1], *x2 = four->in[2], *x3 = four->in[3];
        int32_t a0 = p->bias[output], a1 = a0, a2 = a0, a3 = a0;
        int32_t b0 = p->bias[output + 1], b1 = b0, b2 = b0, b3 = b0;
        for (int32_t k = p->depth / 16; k > 0; --k, w += 32, x0 += 16, x1 += 16, x2 += 16, x3 += 16) {
            const int8x16x2_t pair = vld2q_s8(w);
            int8x16_t x = vldrbq_s8(x0);
            a0 = vmladavaq_s8(a0, x, pair.val[0]);
            b0 = vmladavaq_s8(b0, x, pair.val[1]);
            x = vldrbq_s8(x1);
            a1 = vmladavaq_s8(a1, x, pair.val[0]);
            b1 = vmladavaq_s8(b1, x, pair.val[1]);
            x = vldrbq_s8(x2);
            a2 = vmladavaq_s8(a2, x, pair.val[0]);
            b2 = vmladavaq_s8(b2, x, pair.val[1]);
            x = vldrbq_s8(x3);
            a3 = vmladavaq_s8(a3, x, pair.val[0]);
            b3 = vmladavaq_s8(b3, x, pair.val[1]);
        }
        if (rest != 0) { /* inputs behind the depth are read as zero */
            const int8x16x2_t pair = vld2q_s8(w);
            int8x16_t x = vldrbq_z_s8(x0, last);
            a0 = vmladavaq_s8(a0, x, pair.val[0]);
            b0 = vmladavaq_s8(b0, x, pair.val[1]);
            x = vldrbq_z_s8(x1, last);
            a1 = vmladavaq_s8(a1, x, pair.val[0]);
            b1 = vmladavaq_s8(b1, x, pair.val[1]);
            x = vldrbq_z_s8(x2, last);
            a2 = vmladavaq_s8(a2, x, pair.val[0]);
            b2 = vmladavaq_s8(b2, x, pair.val[1]);
            x = vldrbq_z_s8(x3, last);
            a3 = vmladavaq_s8(a3, x, pair.val[0]);
            b3 = vmladavaq_s8(b3, x, pair.val[1]);
        }
        ed_four_finish(p, output, ed_four_sums(a0, a1, a2, a3), four->at, out);
        if (output + 1 < p->outputs) {
            ed_four_finish(p, output + 1, ed_four_sums(b0, b1, b2, b3), four->at, out);
        }
    }
}

/* All pixels, `stride` apart; the last block may hold the last pixel several times. */
static void ed_product_helium(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels) {
    struct ed_four four;
    for (; pixels > 0; pixels -= 4, in += 4 * stride, out += 4 * p->outputs) {
        uint32_t at[4];
        for (int32_t n = 0; n < 4; ++n) {
            const int32_t pixel = n < pixels ? n : pixels - 1;
            four.in[n] = in + pixel * stride;
            at[n] = (uint32_t)(pixel * p->outputs);
        }
        four.at = vldrwq_u32(at);
        ed_four_pixels(p, &four, out);
    }
}

#endif
