/* CONV_2D of any window: its inputs are gathered side by side, then it is a product. */
#include "ed_inside.h"

enum { PATCH = ED_PATCH_BYTES / 2 }; /* bytes of windows side by side */

/* Words, the last one overlapping. */
static inline void copy(int8_t *to, const int8_t *from, int32_t bytes) {
    const int8_t *const last = from + bytes - 4;
    if (bytes < 4) {
        for (int32_t k = 0; k < bytes; ++k) {
            to[k] = from[k];
        }
        return;
    }
    int8_t *const to_last = to + bytes - 4;
    for (; from < last; to += 4, from += 4) {
        memcpy(to, from, 4);
    }
    memcpy(to_last, last, 4);
}

/* The same from several places `step` apart to places `stride` apart. */
static void copy_each(int8_t *to, int32_t stride, const int8_t *from, int32_t step, int32_t bytes, int32_t times) {
    for (; times > 0; --times, to += stride, from += step) {
        copy(to, from, bytes);
    }
}

/* One row of taps of one pixel, the input row at `from` or a null pointer outside the input. */
static void gather_taps(const struct ed_window *w, const int8_t *from, int32_t column, int8_t *patch) {
    for (int32_t j = 0; j < w->taps_x; ++j, column += w->dilation_x, patch += w->channels) {
        if (from && column >= 0 && column < w->width) {
            copy(patch, from + column * w->channels, w->channels);
        } else {
            memset(patch, w->in_zero, (size_t)w->channels);
        }
    }
}

/* The output columns whose taps all lie side by side inside the input: [*from, *to). */
static void find_inside(const struct ed_window *w, int32_t *from, int32_t *to) {
    const int32_t room = w->width + w->pad_left - w->taps_x; /* where the last window may start, if not dilated */
    *from = (w->pad_left + w->stride_x - 1) / w->stride_x;
    *to = w->dilation_x == 1 && room >= 0 ? room / w->stride_x + 1 : 0;
    *to = *to > w->out_width ? w->out_width : *to;
    *from = *from > *to ? *to : *from;
}

/* The windows of outputs x ... end - 1 of row y, each taps_y * taps_x * channels bytes, `stride` apart; the padding
 * holds in_zero. Columns [from, to) are inside. */
static void gather(const struct ed_window *w, const struct ed_rows *in, int32_t y, int32_t x, int32_t end, int32_t from,
                   int32_t to, int32_t stride, int8_t *patch) {
    const int32_t bytes = w->taps_x * w->channels, first = x;
    from = from > x ? from : x;
    to = to < end ? to : end;
    for (int32_t i = 0; i < w->taps_y; ++i, patch += bytes) {
        const int32_t at = y * w->stride_y - w->pad_top + i * w->dilation_y;
        const int8_t *row = at >= 0 && at < in->count ? ed_row(in, at) : 0;
        for (x = first; x < end; ++x) {
            const int32_t column = x * w->stride_x - w->pad_left;
            if (x == from && from < to && row) {
                copy_each(patch + (x - first) * stride, stride, row + column * w->channels, w->stride_x * w->channels,
                          bytes, to - from);
                x = to - 1;
            } else {
                gather_taps(w, row, column, patch + (x - first) * stride);
            }
        }
    }
}

/* Windows larger than a patch: tap by tap, straight from the rows. */
static void walk(const struct ed_conv *p, const struct ed_rows *in, int32_t y, int32_t x, int8_t *out) {
    const struct ed_window *w = &p->window;
    const struct ed_product *q = &p->product;
    const int32_t pair_bytes = (q->depth + 3) / 4 * 8;
    for (int32_t output = 0; output < q->outputs; ++output) {
        const int8_t *weights = q->weights + output / 2 * pair_bytes + output % 2;
        int32_t sum = q->bias[output];
        for (int32_t tap = 0; tap < w->taps_y * w->taps_x; ++tap) {
            const int32_t row = y * w->stride_y - w->pad_top + tap / w->taps_x * w->dilation_y;
            const int32_t column = x * w->stride_x - w->pad_left + tap % w->taps_x * w->dilation_x;
            const int there = row >= 0 && row < in->count && column >= 0 && column < w->width;
            const int8_t *from = there ? ed_row(in, row) + column * w->channels : in->base;
            for (int32_t k = 0; k < w->channels; ++k, weights += 2) {
                sum = ed_mac(sum, there ? from[k] : w->in_zero, *weights);
            }
        }
        out[output] = ed_place(ed_rescale(sum, &q->scale[output]), q->zero, q->low, q->high);
    }
}

void ed_conv(const struct ed_conv *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count) {
    int8_t patch[PATCH] ED_ALIGNED;
    const int32_t outputs = p->product.outputs, width = p->window.out_width;
    const int32_t stride = (p->product.depth + 3) & ~3;
    const int32_t fitting = PATCH / stride, most = fitting < 4 ? fitting : fitting & ~3;
    int32_t from, to;
    find_inside(&p->window, &from, &to);
    memset(patch, 0, sizeof patch);
    for (int32_t y = first; y < first + count; ++y) {
        for (int32_t x = 0; x < width; out += outputs) {
            if (most == 0) {
                walk(p, in, y, x++, out);
                continue;
            }
            const int32_t end = width - x < most ? width : x + most;
            gather(&p->window, in, y, x, end, from, to, stride, patch);
            ed_product(&p->product, patch, stride, out, end - x);
            out += (end - x - 1) * outputs;
            x = end;
        }
    }
}
