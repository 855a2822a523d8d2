/* Products of weights with inputs that lie side by side: 1x1 convolutions and fully connected layers.
 *
 * Weights come in pairs of outputs, input by input: a0 b0 a1 b1 ...; the depth is padded to a multiple of four
 * and the outputs to an even number, with zeros. */
#include "ed_inside.h"

static int32_t four_inputs(const struct ed_product *p) { return (p->depth + 3) / 4; }

/* TFLite rounds twice after a convolution, once after a fully connected layer. */
enum rounding { TWICE, ONCE };

static int8_t finish(const struct ed_product *p, enum rounding rounding, int32_t output, int32_t sum) {
    const struct ed_scale *scale = &p->scale[output];
    const int32_t scaled = rounding == ONCE ? ed_rescale_once(sum, scale) : ed_rescale(sum, scale);
    return ed_place(scaled, p->zero, p->low, p->high);
}

static void pair_sums(const int8_t *in, const int8_t *weights, int32_t depth, int32_t *a, int32_t *b) {
    int32_t k = 0;
#ifdef ED_DSP
    for (; k + 4 <= depth; k += 4) {
        const uint32_t x = ed_load(in + k), even = ed_even(x), odd = ed_odd(x);
        const uint32_t x01 = ed_low_halves(even, odd), x23 = ed_high_halves(odd, even);
        const uint32_t w01 = ed_load(weights + 2 * k), w23 = ed_load(weights + 2 * k + 4);
        *a = ed_dot2(x23, ed_even(w23), ed_dot2(x01, ed_even(w01), *a));
        *b = ed_dot2(x23, ed_odd(w23), ed_dot2(x01, ed_odd(w01), *b));
    }
#endif
    for (; k < depth; ++k) {
        *a = ed_mac(*a, in[k], weights[2 * k]);
        *b = ed_mac(*b, in[k], weights[2 * k + 1]);
    }
}

/* Outputs from `first` on, of one pixel. */
static void one_pixel(const struct ed_product *p, enum rounding rounding, const int8_t *in, int8_t *out, int32_t first) {
    const int8_t *weights = p->weights + first / 2 * (four_inputs(p) * 8);
    for (int32_t output = first; output < p->outputs; output += 2) {
        int32_t a = p->bias[output], b = p->bias[output + 1];
        pair_sums(in, weights, p->depth, &a, &b);
        out[output] = finish(p, rounding, output, a);
        if (output + 1 < p->outputs) {
            out[output + 1] = finish(p, rounding, output + 1, b);
        }
        weights += four_inputs(p) * 8;
    }
}

#if defined(ED_HELIUM)
#include "ed_product_helium.h"
#elif defined(ED_DSP)
#include "ed_product_dsp.h"
#endif

void ed_product(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels) {
#if defined(ED_HELIUM)
    if (p->fast) {
        ed_product_helium(p, in, stride, out, pixels);
        return;
    }
#elif defined(ED_DSP)
    if (p->fast && p->low == -128 && p->high == 127 && four_inputs(p) * 8 <= ED_PATCH_BYTES) {
        ed_product_dsp(p, in, stride, out, pixels);
        return;
    }
#endif
    for (; pixels > 0; --pixels) {
        one_pixel(p, TWICE, in, out, 0);
        in += stride;
        out += p->outputs;
    }
}

void ed_pointwise(const struct ed_product *p, const int8_t *in, int8_t *out, int32_t pixels) {
    ed_product(p, in, p->depth, out, pixels);
}

void ed_fully_connected(const struct ed_product *p, const int8_t *in, int8_t *out, int32_t batch) {
    for (; batch > 0; --batch) {
        one_pixel(p, ONCE, in, out, 0);
        in += p->depth;
        out += p->outputs;
    }
}
