/* CONV_2D of any window: its inputs are gathered side by side, then it is a product. */
#include "ed_inside.h"

/* The window of output (y, x) as taps_y * taps_x * channels bytes; the padding holds in_zero. */
static void gather(const struct ed_window *w, const struct ed_rows *in, int32_t y, int32_t x, int8_t *patch) {
    const size_t pixel = (size_t)w->channels;
    for (int32_t i = 0; i < w->taps_y; ++i) {
        const int32_t row = y * w->stride_y - w->pad_top + i * w->dilation_y;
        const int row_there = row >= 0 && row < in->count;
        const int8_t *from = row_there ? ed_row(in, row) : in->base;
        for (int32_t j = 0; j < w->taps_x; ++j) {
            const int32_t column = x * w->stride_x - w->pad_left + j * w->dilation_x;
            if (row_there && column >= 0 && column < w->width) {
                memcpy(patch, from + column * w->channels, pixel);
            } else {
                memset(patch, w->in_zero, pixel);
            }
            patch += pixel;
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
    int8_t patch[ED_PATCH_BYTES];
    for (int32_t y = first; y < first + count; ++y) {
        for (int32_t x = 0; x < p->window.out_width; ++x, out += p->product.outputs) {
            if (p->product.depth > ED_PATCH_BYTES) {
                walk(p, in, y, x, out);
                continue;
            }
            gather(&p->window, in, y, x, patch);
            ed_product(&p->product, patch, 0, out, 1);
        }
    }
}
