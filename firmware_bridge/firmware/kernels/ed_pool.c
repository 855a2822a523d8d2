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

void ed_sum(const int8_t *in, int32_t *sums, int32_t pixels, int32_t channels) {
    for (; pixels > 0; --pixels) {
        for (int32_t channel = 0; channel < channels; ++channel) {
            sums[channel] += *in++;
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
