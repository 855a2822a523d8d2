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

#ifdef ED_DSP
/* One pixel's four inputs at [a] + offset -> halves in natural order, doubled: [b] the first two, [a] the others. */
#define SPREAD(a, b, t, address)                                                                                       \
    "ldr.w " a ", " address "\n\t"                                                                                     \
    "sxtb16 " t ", " a "\n\t"                                                                                          \
    "sxtb16 " a ", " a ", ror #8\n\t"                                                                                  \
    "sadd16 " t ", " t ", " t "\n\t"                                                                                   \
    "sadd16 " a ", " a ", " a "\n\t"                                                                                   \
    "pkhbt " b ", " t ", " a ", lsl #16\n\t"                                                                           \
    "pkhtb " a ", " a ", " t ", asr #16\n\t"

static void spread_rest(const int8_t *in, int32_t stride, int32_t rest, uint32_t *to) {
    for (int32_t pixel = 0; pixel < 4; ++pixel, ++to) {
        uint32_t x = 0;
        for (int32_t k = 0; k < rest; ++k) {
            x |= (uint32_t)(uint8_t)in[pixel * stride + k] << (8 * k);
        }
        const uint32_t even = ed_even(x), odd = ed_odd(x);
        const uint32_t even2 = ed_add_halves(even, even), odd2 = ed_add_halves(odd, odd);
        to[0] = ed_low_halves(even2, odd2);
        to[4] = ed_high_halves(odd2, even2);
    }
}

/* Four pixels side by side: for every two inputs one word of halves from each pixel, all doubled, because doubled
 * sums are what the first rounding needs. Inputs behind the depth meet weights of zero: they are read if they belong
 * to the pixel, zero otherwise. */
static void spread(const int8_t *in, int32_t stride, int32_t depth, uint32_t *patch) {
    const int whole = stride >= ((depth + 3) & ~3);
    const int8_t *const end = in + ((whole ? depth + 3 : depth) & ~3);
    uint32_t a, b, c, d, t;
    while (in != end) {
        __asm__ volatile(SPREAD("%[a]", "%[b]", "%[t]", "[%[in]]") SPREAD("%[c]", "%[d]", "%[t]", "[%[in], %[s]]")
                         "strd %[b], %[d], [%[to]]\n\t"
                         "strd %[a], %[c], [%[to], #16]\n\t"
                         SPREAD("%[a]", "%[b]", "%[t]", "[%[in], %[s], lsl #1]") SPREAD("%[c]", "%[d]", "%[t]", "[%[in], %[s3]]")
                         "strd %[b], %[d], [%[to], #8]\n\t"
                         "strd %[a], %[c], [%[to], #24]\n\t"
                         "add.w %[in], %[in], #4\n\t"
                         "add.w %[to], %[to], #32\n\t"
                         : [in] "+r"(in), [to] "+r"(patch), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d),
                           [t] "=&r"(t)
                         : [s] "r"(stride), [s3] "r"(3 * stride)
                         : "memory");
    }
    if (depth % 4 != 0 && !whole) {
        spread_rest(in, stride, depth % 4, patch);
    }
}

/* What four_pixels_asm reads, in its order. */
struct block {
    const uint32_t *patch, *patch_end;
    uint32_t skip; /* bytes of code to skip in the first turn, plus one: Thumb */
    const int32_t *bias;
    const struct ed_scale *scale;
    int8_t *out;
    int32_t stride, zero2;
    const int32_t *bias_end;
    const int8_t *weights;
};

/* Two inputs of two outputs (sums r0-r3, r4-r7) and four pixels; r8 weights, r9 patch. */
#define TWO_INPUTS                                                                                                     \
    "ldr.w r11, [r8], #4\n\t"                                                                                          \
    "ldrd r12, lr, [r9], #8\n\t"                                                                                       \
    "sxtb16 r10, r11\n\t"                                                                                              \
    "sxtb16 r11, r11, ror #8\n\t"                                                                                      \
    "smlad r0, r12, r10, r0\n\t"                                                                                       \
    "smlad r4, r12, r11, r4\n\t"                                                                                       \
    "smlad r1, lr, r10, r1\n\t"                                                                                        \
    "smlad r5, lr, r11, r5\n\t"                                                                                        \
    "ldrd r12, lr, [r9], #8\n\t"                                                                                       \
    "smlad r2, r12, r10, r2\n\t"                                                                                       \
    "smlad r6, r12, r11, r6\n\t"                                                                                       \
    "smlad r3, lr, r10, r3\n\t"                                                                                        \
    "smlad r7, lr, r11, r7\n\t"
#define FOUR_INPUTS TWO_INPUTS TWO_INPUTS
enum { FOUR_INPUTS_BYTES = 26 * 4 };

/* Doubled sum -> output: both roundings, zero point, limits -128 and 127. r10 multiplier, r11 right shift less one,
 * r12 twice the zero point plus one. */
#define REQUANTIZE(r)                                                                                                  \
    "smmulr " r ", " r ", r10\n\t"                                                                                     \
    "add.w " r ", " r ", " r ", asr #31\n\t"                                                                           \
    "asr.w " r ", " r ", r11\n\t"                                                                                      \
    "add " r ", " r ", r12\n\t"                                                                                        \
    "ssat " r ", #8, " r ", asr #1\n\t"

/* All pairs of outputs of four pixels. Registers are named because all fourteen are needed; r7 may be the frame
 * pointer and is kept by hand. On the stack: patch, its end, entry, bias, scale, out, stride, zero2, end of bias. */
static void four_pixels_asm(const struct block *block) {
    register const struct block *r0 __asm__("r0") = block;
    __asm__ volatile("push {r7}\n\t"
                     "ldr.w r8, [r0, #36]\n\t"
                     "ldmia r0, {r1-r6, r9-r11}\n\t"
                     "adr r12, 2f\n\t"
                     "add r3, r3, r12\n\t"
                     "push {r1-r6, r9-r11}\n"
                     "1:\n\t"
                     "ldr.w r9, [sp, #12]\n\t"
                     "ldrd r0, r4, [r9], #8\n\t"
                     "str.w r9, [sp, #12]\n\t"
                     "lsl r0, r0, #1\n\t"
                     "lsl r4, r4, #1\n\t"
                     "mov r1, r0\n\t"
                     "mov r2, r0\n\t"
                     "mov r3, r0\n\t"
                     "mov r5, r4\n\t"
                     "mov r6, r4\n\t"
                     "mov r7, r4\n\t"
                     "ldr.w r9, [sp]\n\t"
                     "ldr.w pc, [sp, #8]\n\t"
                     ".p2align 2\n"
                     "2:\n\t" FOUR_INPUTS FOUR_INPUTS FOUR_INPUTS FOUR_INPUTS
                     "ldr.w r10, [sp, #4]\n\t"
                     "cmp r9, r10\n\t"
                     "bne.w 2b\n\t"
                     "ldr.w r9, [sp, #16]\n\t"
                     "ldrd r10, r11, [r9], #8\n\t"
                     "ldr.w r12, [sp, #28]\n\t"
                     "mvn r11, r11\n\t" REQUANTIZE("r0") REQUANTIZE("r1") REQUANTIZE("r2") REQUANTIZE("r3")
                     "ldrd r10, r11, [r9], #8\n\t"
                     "str.w r9, [sp, #16]\n\t"
                     "mvn r11, r11\n\t" REQUANTIZE("r4") REQUANTIZE("r5") REQUANTIZE("r6") REQUANTIZE("r7")
                     "ldrd r9, r10, [sp, #20]\n\t"
                     "add.w r11, r9, #2\n\t"
                     "str.w r11, [sp, #20]\n\t"
                     "strb.w r0, [r9]\n\t"
                     "strb.w r4, [r9, #1]\n\t"
                     "add r9, r9, r10\n\t"
                     "strb.w r1, [r9]\n\t"
                     "strb.w r5, [r9, #1]\n\t"
                     "add r9, r9, r10\n\t"
                     "strb.w r2, [r9]\n\t"
                     "strb.w r6, [r9, #1]\n\t"
                     "add r9, r9, r10\n\t"
                     "strb.w r3, [r9]\n\t"
                     "strb.w r7, [r9, #1]\n\t"
                     "ldr.w r9, [sp, #12]\n\t"
                     "ldr.w r10, [sp, #32]\n\t"
                     "cmp r9, r10\n\t"
                     "bne.w 1b\n\t"
                     "add sp, sp, #36\n\t"
                     "pop {r7}\n\t"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
}

/* As many multiples of four pixels as there are; returns how many pixels that is. */
static int32_t fours_of_pixels(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels) {
    uint32_t patch[ED_PATCH_BYTES / 4];
    const int32_t fours = four_inputs(p), even_outputs = p->outputs & ~1;
    const uint32_t skip = (uint32_t)((3 - (fours - 1) % 4) * FOUR_INPUTS_BYTES + 1);
    struct block block = {patch,      patch + 8 * fours, skip,
                          p->bias,    p->scale,          out,
                          p->outputs, 2 * p->zero + 1,   p->bias + even_outputs,
                          p->weights};
    int32_t done = 0;
    if (!p->fast || p->low != -128 || p->high != 127 || fours * 32 > ED_PATCH_BYTES || pixels < 4) {
        return 0;
    }
    while (pixels - done >= 3) {
        done = pixels - done == 3 ? pixels - 4 : done; /* three left: the last four again */
        block.out = out + done * p->outputs;
        spread(in + done * stride, stride, p->depth, patch);
        if (even_outputs != 0) {
            four_pixels_asm(&block);
        }
        done += 4;
        for (int32_t pixel = done - 4; pixel < done && even_outputs < p->outputs; ++pixel) {
            one_pixel(p, TWICE, in + pixel * stride, out + pixel * p->outputs, even_outputs);
        }
    }
    return done;
}
#endif

void ed_product(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels) {
    int32_t done = 0;
#ifdef ED_DSP
    done = fours_of_pixels(p, in, stride, out, pixels);
#endif
    for (; done < pixels; ++done) {
        one_pixel(p, TWICE, in + done * stride, out + done * p->outputs, 0);
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
