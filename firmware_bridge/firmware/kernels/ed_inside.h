/* What the kernels share: fixed-point rounding and the walk over a ring of rows. Not for callers. */
#ifndef ED_INSIDE_H
#define ED_INSIDE_H

#include "ed_kernels.h"

#include <string.h>

/* Bytes of stack that a kernel may use for the inputs of a few pixels side by side. */
#ifndef ED_PATCH_BYTES
#define ED_PATCH_BYTES 2304
#endif

#if !defined(ED_PORTABLE) && defined(__ARM_FEATURE_DSP) && defined(__GNUC__)
#define ED_DSP 1
#include "ed_dsp.h"
#endif
#if !defined(ED_PORTABLE) && defined(__ARM_FEATURE_MVE)
#define ED_HELIUM 1
#endif

/* Right shifts of negative numbers are arithmetic, as on every compiler there is. */

/* The high word of 2 * a * b, halves upwards (gemmlowp's SaturatingRoundingDoublingHighMul; b is never -2^31). */
static inline int32_t ed_high(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* a / 2^shift, halves away from zero (gemmlowp's RoundingDivideByPOT). */
static inline int32_t ed_halve(int32_t a, int32_t shift) {
    const int32_t mask = (int32_t)(((uint32_t)1 << shift) - 1u);
    const int32_t threshold = (mask >> 1) + (a < 0);
    return (a >> shift) + ((a & mask) > threshold);
}

/* TFLite's MultiplyByQuantizedMultiplier, both roundings. */
static inline int32_t ed_rescale(int32_t a, const struct ed_scale *scale) {
    const int32_t left = scale->shift > 0 ? scale->shift : 0;
    const int32_t right = scale->shift > 0 ? 0 : -scale->shift;
    return ed_halve(ed_high((int32_t)((uint32_t)a << left), scale->multiplier), right);
}

/* The same factor with one rounding, halves upwards, bounded to what ed_place tells apart. */
static inline int32_t ed_rescale_once(int32_t a, const struct ed_scale *scale) {
    const int32_t right = 31 - scale->shift;
    const int64_t wide = ((int64_t)a * scale->multiplier + ((int64_t)1 << (right - 1))) >> right;
    return wide > 4096 ? 4096 : wide < -4096 ? -4096 : (int32_t)wide;
}

static inline int8_t ed_clamp(int32_t a, int32_t low, int32_t high) {
    return (int8_t)(a < low ? low : a > high ? high : a);
}

/* zero is small, a may be anything: added without wrapping past the limits. */
static inline int8_t ed_place(int32_t a, int32_t zero, int32_t low, int32_t high) {
    if (a > 1024) {
        return (int8_t)high;
    }
    return a < -1024 ? (int8_t)low : ed_clamp(a + zero, low, high);
}

static inline const int8_t *ed_row(const struct ed_rows *rows, int32_t y) {
    return rows->base + (y % rows->capacity) * rows->row_bytes;
}

/* a * b + sum modulo 2^32: TFLite's accumulators wrap. */
static inline int32_t ed_mac(int32_t sum, int32_t a, int32_t b) {
    return (int32_t)((uint32_t)sum + (uint32_t)(a * b));
}

/* Outputs of `pixels` pixels, pixel n's inputs side by side at in + n * stride; ed_product.c. */
void ed_product(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels);

#endif
