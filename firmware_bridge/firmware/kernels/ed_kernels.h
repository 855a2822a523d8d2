/* Kernels of int8 networks: what generated code calls. Freestanding C99 plus memcpy/memset; no floating point,
 * no allocation, no recursion. Every build (portable, DSP extension, Helium) gives the same bytes.
 *
 * A map is [height][width][channels] int8; a row is width * channels bytes, rows of a step lie one after another.
 * Layer structs are constant data; weights, bias and scale come from firmware_bridge/pack.py, whose order of
 * weights is private to these kernels. Input and output of one call never share bytes. */
#ifndef ED_KERNELS_H
#define ED_KERNELS_H

#include <stdint.h>

#if defined(__GNUC__)
#define ED_ALIGNED __attribute__((aligned(8)))
#else
#define ED_ALIGNED
#endif

/* Row y of an input map lies at base + (y % capacity) * row_bytes: a ring, or all rows if capacity == count. */
struct ed_rows {
    const int8_t *base;
    int32_t row_bytes, capacity, count;
};

/* A real factor as multiplier * 2^(shift - 31); shift > 0 is to the left (TFLite's QuantizeMultiplier). */
struct ed_scale {
    int32_t multiplier, shift;
};

/* out[n] = clamp(zero + scale[n] * (bias[n] + sum over depth of in * weight), low, high) */
struct ed_product {
    int32_t depth, outputs;
    const int8_t *weights;        /* pack_product, ED_ALIGNED */
    const int32_t *bias;          /* input zero point folded in; as many as pack_product gives (even number) */
    const struct ed_scale *scale; /* as many as bias */
    int32_t zero, low, high;      /* of the output */
    int32_t fast;                 /* pack_product proved |sum| < 2^30 and every shift < 0 */
};

/* Where output (y, x) looks: input (y * stride_y - pad_top + i * dilation_y, x * stride_x - pad_left + ...). */
struct ed_window {
    int32_t width, channels; /* of the input */
    int32_t taps_y, taps_x, stride_y, stride_x, dilation_y, dilation_x, pad_top, pad_left;
    int32_t out_width;
    int32_t in_zero; /* what the padding holds */
};

struct ed_conv {
    struct ed_window window;
    struct ed_product product; /* depth = taps_y * taps_x * channels */
};

struct ed_depthwise {
    struct ed_window window;
    int32_t multiplier;           /* output channels of an input channel */
    const int8_t *weights;        /* pack_depthwise, ED_ALIGNED */
    const int32_t *bias;          /* as many as pack_depthwise gives, like scale */
    const struct ed_scale *scale;
    int32_t zero, low, high;
    int32_t fast; /* pack_depthwise proved |sum| < 2^30 and no shift > 0 */
};

/* 1x1 convolution of stride 1: in [pixels][depth], out [pixels][outputs]. */
void ed_pointwise(const struct ed_product *p, const int8_t *in, int8_t *out, int32_t pixels);

/* in [batch][depth], out [batch][outputs]; rounded once, as TFLite does here and only here. */
void ed_fully_connected(const struct ed_product *p, const int8_t *in, int8_t *out, int32_t batch);

/* Make output rows first ... first + count - 1 at out. */
void ed_conv(const struct ed_conv *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count);
void ed_depthwise(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count);

/* Pools look like convolutions (dilation 1; in_zero unused): padding takes no part. Input and output share scale. */
struct ed_pool {
    struct ed_window window;
    int32_t low, high;
};
void ed_average_pool(const struct ed_pool *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count);
void ed_max_pool(const struct ed_pool *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count);

/* Pools of a whole map a few rows at a time: clear sums [channels], add rows as they come, then finish. */
void ed_sum(const int8_t *in, int32_t *sums, int32_t pixels, int32_t channels);
/* AVERAGE_POOL_2D over `pixels` pixels: half away from zero. */
void ed_sum_average(const int32_t *sums, int8_t *out, int32_t pixels, int32_t channels, int32_t low, int32_t high);
/* MEAN (pack.pack_mean): out = zero + scale * (sum - offset). */
struct ed_mean {
    int32_t channels, offset;
    struct ed_scale scale;
    int32_t zero;
};
void ed_sum_mean(const struct ed_mean *p, const int32_t *sums, int8_t *out);

/* Element-wise; input a (b) has a_count (b_count) values, read again from the start after the last. */
struct ed_add { /* pack.pack_add */
    int32_t a_count, b_count;
    int32_t a_zero, b_zero;
    struct ed_scale a, b, out;
    int32_t left, zero, low, high; /* left: shift of both inputs before scaling, 20 */
};
struct ed_mul { /* pack.pack_mul */
    int32_t a_count, b_count;
    int32_t a_zero, b_zero;
    struct ed_scale out;
    int32_t zero, low, high;
};
void ed_add(const struct ed_add *p, const int8_t *a, const int8_t *b, int8_t *out, int32_t count);
void ed_mul(const struct ed_mul *p, const int8_t *a, const int8_t *b, int8_t *out, int32_t count);

/* PAD: rows first ... of the padded map; sides in pixels, channels unpadded. */
struct ed_pad {
    int32_t width, channels, top, left, out_width, value;
};
void ed_pad(const struct ed_pad *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count);

struct ed_softmax { /* pack.pack_softmax */
    int32_t depth, multiplier, shift, least;
};
void ed_softmax(const struct ed_softmax *p, const int8_t *in, int8_t *out, int32_t rows);

/* Any function of one value (LOGISTIC, QUANTIZE between scales): table[value + 128], pack.table_*. uint8 bytes
 * are passed as they are, reinterpreted as int8. */
void ed_lookup(const int8_t *table, const int8_t *in, int8_t *out, int32_t count);
/* QUANTIZE between int8 and uint8 of one scale and zero points 128 apart: flips the top bit. */
void ed_flip(const int8_t *in, int8_t *out, int32_t count);
/* CONCATENATION along channels: one input into its place (out points at its first channel). */
void ed_interleave(const int8_t *in, int8_t *out, int32_t pixels, int32_t channels, int32_t out_channels);

#endif
