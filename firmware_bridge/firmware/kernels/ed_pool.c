/* AVERAGE_POOL_2D, MAX_POOL_2D, and sums that finish as a mean of a whole map. */
#include "ed_inside.h"

/* Half away from zero, as TFLite's integer average. */
static int32_t average(int32_t sum, int32_t count) {
    return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

/* The part of the window of output `at` that lies inside an input of `size`: [*from, *to). */
static void inside(int32_t at, int32_t stride, int32_t pad, int32_t taps, int32_t size, int32_t *from, int32_t *to) {
    const int32_t start = at * stride - pad;
    *from = start > 0 ? start : 0;
    *to = start + taps < size ? start + taps : size;
}

static int8_t pool(const struct ed_pool *p, const struct ed_rows *in, int32_t y, int32_t x, int32_t channel, int max) {
    const struct ed_window *w = &p->window;
    int32_t top, bottom, left, right, sum = 0, most = -128;
    inside(y, w->stride_y, w->pad_top, w->taps_y, in->count, &top, &bottom);
    inside(x, w->stride_x, w->pad_left, w->taps_x, w->width, &left, &right);
    for (int32_t row = top; row < bottom; ++row) {
        const int8_t *at = ed_row(in, row) + left * w->channels + channel;
        for (int32_t column = left; column < right; ++column, at += w->channels) {
            sum += *at;
            most = *at > most ? *at : most;
        }
    }
    return ed_clamp(max ? most : average(sum, (bottom - top) * (right - left)), p->low, p->high);
}

static void pool_rows(const struct ed_pool *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count, int max) {
    for (int32_t y = first; y < first + count; ++y) {
        for (int32_t x = 0; x < p->window.out_width; ++x) {
            for (int32_t channel = 0; channel < p->window.channels; ++channel) {
                *out++ = pool(p, in, y, x, channel, max);
            }
        }
    }
}

void ed_average_pool(const struct ed_pool *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count) {
    pool_rows(p, in, out, first, count, 0);
}

void ed_max_pool(const struct ed_pool *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count) {
    pool_rows(p, in, out, first, count, 1);
}

#if defined(ED_HELIUM)
#include <arm_mve.h>

static void sum_four(const int8_t *in, int32_t *sums, int32_t pixels, int32_t channels) {
    int32x4_t four = vldrwq_s32(sums);
    for (; pixels > 0; --pixels, in += channels) {
        four = vaddq_s32(four, vldrbq_s32(in));
    }
    vstrwq_s32(sums, four);
}
#elif defined(ED_DSP)
/* Four channels, pixel after pixel. */
static void sum_four(const int8_t *in, int32_t *sums, int32_t pixels, int32_t channels) {
    int32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    for (; pixels > 0; --pixels, in += channels) {
        uint32_t word;
        __asm__ volatile("ldr.w %[x], [%[in]]\n\t"
                         "sxtab %[a], %[a], %[x]\n\t"
                         "sxtab %[b], %[b], %[x], ror #8\n\t"
                         "sxtab %[c], %[c], %[x], ror #16\n\t"
                         "sxtab %[d], %[d], %[x], ror #24\n\t"
                         : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [x] "=&r"(word)
                         : [in] "r"(in)
                         : "memory");
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif

void ed_sum(const int8_t *in, int32_t *sums, int32_t pixels, int32_t channels) {
    int32_t channel = 0;
#if defined(ED_HELIUM) || defined(ED_DSP)
    for (; channel + 4 <= channels; channel += 4) {
        sum_four(in + channel, sums + channel, pixels, channels);
    }
#endif
    for (; channel < channels; ++channel) {
        for (int32_t pixel = 0; pixel < pixels; ++pixel) {
            sums[channel] += in[pixel * channels + channel];
        }
    }
}

void ed_sum_average(const int32_t *sums, int8_t *out, int32_t pixels, int32_t channels, int32_t low, int32_t high) {
    for (int32_t channel = 0; channel < channels; ++channel) {
        out[channel] = ed_clamp(average(sums[channel], pixels), low, high);
    }
}

void ed_sum_mean(const struct ed_mean *p, const int32_t *sums, int8_t *out) {
    for (int32_t channel = 0; channel < p->channels; ++channel) {
        out[channel] = ed_place(ed_rescale(sums[channel] - p->offset, &p->scale), p->zero, -128, 127);
    }
}
