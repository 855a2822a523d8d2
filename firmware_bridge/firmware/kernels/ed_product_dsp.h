/* Products on the DSP extension: two outputs of four pixels at a time. Part of ed_product.c. */
#ifndef ED_PRODUCT_DSP_H
#define ED_PRODUCT_DSP_H

#include "ed_inside.h"

/* One pixel's four inputs at [a] + offset -> halves in natural order, doubled: [b] the first two, [a] the others. */
#define SPREAD(a, b, t, address)                                                                                       \
    "ldr.w " a ", " address "\n\t"                                                                                     \
    "sxtb16 " t ", " a "\n\t"                                                                                          \
    "sxtb16 " a ", " a ", ror #8\n\t"                                                                                  \
    "sadd16 " t ", " t ", " t "\n\t"                                                                                   \
    "sadd16 " a ", " a ", " a "\n\t"                                                                                   \
    "pkhbt " b ", " t ", " a ", lsl #16\n\t"                                                                           \
    "pkhtb " a ", " a ", " t ", asr #16\n\t"

/* The last inputs of one pixel, `rest` of them: two words `apart`. */
static void spread_rest(const int8_t *in, int32_t rest, uint32_t *to, int32_t apart) {
    uint32_t x = 0;
    for (int32_t k = 0; k < rest; ++k) {
        x |= (uint32_t)(uint8_t)in[k] << (8 * k);
    }
    const uint32_t even = ed_even(x), odd = ed_odd(x);
    const uint32_t even2 = ed_add_halves(even, even), odd2 = ed_add_halves(odd, odd);
    to[0] = ed_low_halves(even2, odd2);
    to[apart] = ed_high_halves(odd2, even2);
}

/* Four pixels side by side, at in, in + at[1], in + at[2], in + at[3]: for every two inputs one word of halves from
 * each pixel, all doubled, because doubled sums are what the first rounding needs. Inputs behind the depth meet
 * weights of zero: with `whole` they may be read, otherwise they are zero. */
static void spread(const int8_t *in, const int32_t *at, int32_t depth, int whole, uint32_t *patch) {
    const int8_t *const end = in + ((whole ? depth + 3 : depth) & ~3);
    uint32_t a, b, c, d, t;
    while (in != end) {
        __asm__ volatile(SPREAD("%[a]", "%[b]", "%[t]", "[%[in]]") SPREAD("%[c]", "%[d]", "%[t]", "[%[in], %[s1]]")
                         "strd %[b], %[d], [%[to]]\n\t"
                         "strd %[a], %[c], [%[to], #16]\n\t"
                         SPREAD("%[a]", "%[b]", "%[t]", "[%[in], %[s2]]") SPREAD("%[c]", "%[d]", "%[t]", "[%[in], %[s3]]")
                         "strd %[b], %[d], [%[to], #8]\n\t"
                         "strd %[a], %[c], [%[to], #24]\n\t"
                         "add.w %[in], %[in], #4\n\t"
                         "add.w %[to], %[to], #32\n\t"
                         : [in] "+r"(in), [to] "+r"(patch), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d),
                           [t] "=&r"(t)
                         : [s1] "r"(at[1]), [s2] "r"(at[2]), [s3] "r"(at[3])
                         : "memory");
    }
    for (int32_t pixel = 0; pixel < 4 && depth % 4 != 0 && !whole; ++pixel) {
        spread_rest(in + at[pixel], depth % 4, patch + pixel, 4);
    }
}

/* One pixel, two inputs a word. */
static void spread_one(const int8_t *in, int32_t depth, uint32_t *patch) {
    uint32_t a, b, t;
    for (; depth >= 4; depth -= 4, in += 4, patch += 2) {
        __asm__ volatile(SPREAD("%[a]", "%[b]", "%[t]", "[%[in]]")
                         : [a] "=&r"(a), [b] "=&r"(b), [t] "=&r"(t)
                         : [in] "r"(in)
                         : "memory");
        patch[0] = b;
        patch[1] = a;
    }
    if (depth > 0) {
        spread_rest(in, depth, patch, 1);
    }
}

/* What four_pixels_asm reads, in its order. */
struct block {
    const uint32_t *patch, *patch_end;
    uint32_t skip; /* bytes of code to skip in the first turn, plus one: Thumb */
    const int32_t *bias;
    const struct ed_scale *scale;
    int32_t zero2;
    const int32_t *bias_end;
    int8_t *out;
    int32_t steps[3]; /* bytes from each pixel's outputs to the next one's */
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
 * pointer and is kept by hand. On the stack: the block up to its weights. */
static void four_pixels_asm(const struct block *block) {
    register const struct block *r0 __asm__("r0") = block;
    __asm__ volatile("push {r7}\n\t"
                     "ldr.w r8, [r0, #44]\n\t"
                     "ldmia r0, {r1-r6, r9-r12, lr}\n\t"
                     "adr r7, 2f\n\t"
                     "add r3, r3, r7\n\t"
                     "push {r1-r6, r9-r12, lr}\n"
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
                     "ldr.w r12, [sp, #20]\n\t"
                     "mvn r11, r11\n\t" REQUANTIZE("r0") REQUANTIZE("r1") REQUANTIZE("r2") REQUANTIZE("r3")
                     "ldrd r10, r11, [r9], #8\n\t"
                     "str.w r9, [sp, #16]\n\t"
                     "mvn r11, r11\n\t" REQUANTIZE("r4") REQUANTIZE("r5") REQUANTIZE("r6") REQUANTIZE("r7")
                     "add.w r9, sp, #28\n\t"
                     "ldmia r9, {r9, r10, r11, r12}\n\t"
                     "strb.w r4, [r9, #1]\n\t"
                     "strb.w r0, [r9], #2\n\t"
                     "str.w r9, [sp, #28]\n\t"
                     "sub r9, r9, #2\n\t"
                     "add r9, r9, r10\n\t"
                     "strb.w r1, [r9]\n\t"
                     "strb.w r5, [r9, #1]\n\t"
                     "add r9, r9, r11\n\t"
                     "strb.w r2, [r9]\n\t"
                     "strb.w r6, [r9, #1]\n\t"
                     "add r9, r9, r12\n\t"
                     "strb.w r3, [r9]\n\t"
                     "strb.w r7, [r9, #1]\n\t"
                     "ldr.w r9, [sp, #12]\n\t"
                     "ldr.w r10, [sp, #24]\n\t"
                     "cmp r9, r10\n\t"
                     "bne.w 1b\n\t"
                     "add sp, sp, #44\n\t"
                     "pop {r7}\n\t"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
}

/* Sums of two outputs of one pixel: ten instructions for eight products. */
static void one_pixel_sums(const int8_t *w, const int8_t *w_end, const uint32_t *patch, int32_t *a, int32_t *b) {
    int32_t even = *a, odd = *b;
    uint32_t w0, w1, x0, x1, t;
    while (w != w_end) {
        __asm__ volatile("ldrd %[w0], %[w1], [%[w]], #8\n\t"
                         "ldrd %[x0], %[x1], [%[x]], #8\n\t"
                         "sxtb16 %[t], %[w0]\n\t"
                         "sxtb16 %[w0], %[w0], ror #8\n\t"
                         "smlad %[a], %[x0], %[t], %[a]\n\t"
                         "smlad %[b], %[x0], %[w0], %[b]\n\t"
                         "sxtb16 %[t], %[w1]\n\t"
                         "sxtb16 %[w1], %[w1], ror #8\n\t"
                         "smlad %[a], %[x1], %[t], %[a]\n\t"
                         "smlad %[b], %[x1], %[w1], %[b]\n\t"
                         : [w] "+r"(w), [x] "+r"(patch), [a] "+r"(even), [b] "+r"(odd), [w0] "=&r"(w0), [w1] "=&r"(w1),
                           [x0] "=&r"(x0), [x1] "=&r"(x1), [t] "=&r"(t)
                         :
                         : "memory");
    }
    *a = even;
    *b = odd;
}

static int8_t finish_fast(const struct ed_scale *scale, int32_t zero2, int32_t doubled) {
    int32_t high = (int32_t)ed_high_rounded((uint32_t)doubled, (uint32_t)scale->multiplier);
    high += high >> 31; /* halves away from zero */
    high = (high >> (-scale->shift - 1)) + zero2;
    __asm__("ssat %0, #8, %1, asr #1" : "=r"(high) : "r"(high));
    return (int8_t)high;
}

static void one_pixel_fast(const struct ed_product *p, const int8_t *in, int8_t *out, uint32_t *patch) {
    const int32_t bytes = four_inputs(p) * 8, zero2 = 2 * p->zero + 1;
    const int8_t *weights = p->weights;
    spread_one(in, p->depth, patch);
    for (int32_t output = 0; output < p->outputs; output += 2, weights += bytes) {
        int32_t a = 2 * p->bias[output], b = 2 * p->bias[output + 1];
        one_pixel_sums(weights, weights + bytes, patch, &a, &b);
        out[output] = finish_fast(&p->scale[output], zero2, a);
        if (output + 1 < p->outputs) {
            out[output + 1] = finish_fast(&p->scale[output + 1], zero2, b);
        }
    }
}

/* All pixels: four at a time, three as four with the last one twice, two or one by one. */
static void ed_product_dsp(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels) {
    uint32_t patch[ED_PATCH_BYTES / 4];
    const int32_t fours = four_inputs(p), even_outputs = p->outputs & ~1;
    const int whole = stride >= 4 * fours;
    const uint32_t skip = (uint32_t)((3 - (fours - 1) % 4) * FOUR_INPUTS_BYTES + 1);
    int32_t at[4] = {0, stride, 2 * stride, 3 * stride};
    struct block block = {patch,
                          patch + 8 * fours,
                          skip,
                          p->bias,
                          p->scale,
                          2 * p->zero + 1,
                          p->bias + even_outputs,
                          out,
                          {p->outputs, p->outputs, p->outputs},
                          p->weights};
    for (; pixels >= 3; pixels -= 4) {
        if (pixels == 3) {
            at[3] = at[2];
            block.steps[2] = 0;
        }
        spread(in, at, p->depth, whole, patch);
        if (even_outputs != 0) {
            block.out = out;
            four_pixels_asm(&block);
        }
        for (int32_t pixel = 0; pixel < 4 && pixel < pixels && even_outputs < p->outputs; ++pixel) {
            one_pixel(p, TWICE, in + at[pixel], out + pixel * p->outputs, even_outputs);
        }
        in += 4 * stride;
        out += 4 * p->outputs;
    }
    for (; pixels > 0; --pixels, in += stride, out += p->outputs) {
        one_pixel_fast(p, in, out, patch);
    }
}

#endif
