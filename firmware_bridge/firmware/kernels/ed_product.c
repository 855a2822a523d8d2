/* Products of weights with inputs that lie side by side: 1x1 convolutions and fully connected layers.
 *
 * Weights come in pairs of outputs, input by input: a0 b0 a1 b1 ...; the depth is padded to a multiple of four
 * and the outputs to an even number, with zeros. */
#include "ed_inside.h"

static int8_t finish(const struct ed_product *p, int32_t output, int32_t sum) {
    return ed_place(ed_rescale(sum, &p->scale[output]), p->zero, p->low, p->high);
}

void ed_product_pixel(const struct ed_product *p, const int8_t *in, int8_t *out) {
    const int32_t pair_bytes = (p->depth + 3) / 4 * 8;
    const int8_t *weights = p->weights;
    for (int32_t output = 0; output < p->outputs; output += 2) {
        int32_t a = p->bias[output], b = p->bias[output + 1];
        for (int32_t k = 0; k < p->depth; ++k) {
            a = ed_mac(a, in[k], weights[2 * k]);
            b = ed_mac(b, in[k], weights[2 * k + 1]);
        }
        out[output] = finish(p, output, a);
        if (output + 1 < p->outputs) {
            out[output + 1] = finish(p, output + 1, b);
        }
        weights += pair_bytes;
    }
}

void ed_pointwise(const struct ed_product *p, const int8_t *in, int8_t *out, int32_t pixels) {
    for (; pixels > 0; --pixels) {
        ed_product_pixel(p, in, out);
        in += p->depth;
        out += p->outputs;
    }
}

void ed_fully_connected(const struct ed_product *p, const int8_t *in, int8_t *out, int32_t batch) {
    ed_pointwise(p, in, out, batch);
}
