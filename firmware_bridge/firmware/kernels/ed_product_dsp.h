/* Products on the DSP extension: two outputs of four pixels at a time. Part of ed_product.c. */
#ifndef ED_PRODUCT_DSP_H
#define ED_PRODUCT_DSP_H

#include "ed_inside.h"

/* One pixel's four inputs at [a] + offset -> halves in natural order, doubled: [b] the first two, [a] the others. */
#define SPREAD(a, b, t, address)                                                                                       \
    "ldr.w " a "," address "\n"                                                                                     \
    "sxtb16 " t "," a "\n"                                                                                          \
    "sxtb16 " a "," a ",ror #8\n"                                                                                  \
    "sadd16 " t "," t "," t "\n"                                                                                   \
    "sadd16 " a "," a "," a "\n"                                                                                   \
    "pkhbt " b "," t "," a ",lsl #16\n"                                                                           \
    "pkhtb " a "," a "," t ",asr #16\n"

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
        __asm__ volatile(SPREAD("%[a]", "%[b]", "%[t]", "[%[in]]") SPREAD("%[c]", "%[d]", "%[t]", "[%[in],%[s1]]")
                         "strd %[b],%[d],[%[to]]\n"
                         "strd %[a],%[c],[%[to],#16]\n"
                         SPREAD("%[a]", "%[b]", "%[t]", "[%[in],%[s2]]") SPREAD("%[c]", "%[d]", "%[t]", "[%[in],%[s3]]")
                         "strd %[b],%[d],[%[to],#8]\n"
                         "strd %[a],%[c],[%[to],#24]\n"
                         "add.w %[in],%[in],#4\n"
                         "add.w %[to],%[to],#32\n"
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
    "ldr r11,[r8],#4\n"                                                                                          \
    "ldrd r12,lr,[r9],#8\n"                                                                                       \
    "sxtb16 r10,r11\n"                                                                                              \
    "sxtb16 r11,r11,ror #8\n"                                                                                      \
    "smlad r0,r12,r10,r0\n"                                                                                       \
    "smlad r4,r12,r11,r4\n"                                                                                       \
    "smlad r1,lr,r10,r1\n"                                                                                        \
    "smlad r5,lr,r11,r5\n"                                                                                        \
    "ldrd r12,lr,[r9],#8\n"                                                                                       \
    "smlad r2,r12,r10,r2\n"                                                                                       \
    "smlad r6,r12,r11,r6\n"                                                                                       \
    "smlad r3,lr,r10,r3\n"                                                                                        \
    "smlad r7,lr,r11,r7\n"
#define FOUR_INPUTS TWO_INPUTS TWO_INPUTS
enum { FOUR_INPUTS_BYTES = 26 * 4 };

/* Doubled sum -> output: both roundings, zero point, limits -128 and 127. r10 multiplier, r11 right shift less one,
 * r12 twice the zero point plus one. */
#define REQUANTIZE_WITH(r, multiplier, less, zero2)                                                                    \
    "smmulr " r "," r "," multiplier "\n"                                                                          \
    "add.w " r "," r "," r ",asr #31\n"                                                                           \
    "asr.w " r "," r "," less "\n"                                                                                 \
    "add " r "," r "," zero2 "\n"                                                                                  \
    "ssat " r ",#8," r ",asr #1\n"
#define REQUANTIZE(r) REQUANTIZE_WITH(r, "r10", "r11", "r12")

/* All pairs of outputs of four pixels. Registers are named because all fourteen are needed; r7 may be the frame
 * pointer and is kept by hand. On the stack: the block up to its weights. */
static void four_pixels_asm(const struct block *block) {
    register const struct block *r0 __asm__("r0") = block;
    __asm__ volatile("push {r7}\n"
                     "ldr.w r8,[r0,#44]\n"
                     "ldmia r0,{r1-r6,r9-r12,lr}\n"
                     "adr r7,2f\n"
                     "add r3,r3,r7\n"
                     "push {r1-r6,r9-r12,lr}\n"
                     "1:\n"
                     "ldr.w r9,[sp,#12]\n"
                     "ldrd r0,r4,[r9],#8\n"
                     "str.w r9,[sp,#12]\n"
                     "lsl r0,r0,#1\n"
                     "lsl r4,r4,#1\n"
                     "mov r1,r0\n"
                     "mov r2,r0\n"
                     "mov r3,r0\n"
                     "mov r5,r4\n"
                     "mov r6,r4\n"
                     "mov r7,r4\n"
                     "ldr.w r9,[sp]\n"
                     "ldr.w pc,[sp,#8]\n"
                     ".p2align 2\n"
                     "2:\n" FOUR_INPUTS FOUR_INPUTS FOUR_INPUTS FOUR_INPUTS
                     "ldr.w r10,[sp,#4]\n"
                     "cmp r9,r10\n"
                     "bne.w 2b\n"
                     "ldr.w r9,[sp,#16]\n"
                     "ldrd r10,r11,[r9],#8\n"
                     "ldr.w r12,[sp,#20]\n"
                     "mvn r11,r11\n" REQUANTIZE("r0") REQUANTIZE("r1") REQUANTIZE("r2") REQUANTIZE("r3")
                     "ldrd r10,r11,[r9],#8\n"
                     "str.w r9,[sp,#16]\n"
                     "mvn r11,r11\n" REQUANTIZE("r4") REQUANTIZE("r5") REQUANTIZE("r6") REQUANTIZE("r7")
                     "add.w r9,sp,#28\n"
                     "ldmia r9,{r9,r10,r11,r12}\n"
                     "strb.w r4,[r9,#1]\n"
                     "strb r0,[r9],#2\n"
                     "str.w r9,[sp,#28]\n"
                     "sub r9,r9,#2\n"
                     "add r9,r9,r10\n"
                     "strb.w r1,[r9]\n"
                     "strb.w r5,[r9,#1]\n"
                     "add r9,r9,r11\n"
                     "strb.w r2,[r9]\n"
                     "strb.w r6,[r9,#1]\n"
                     "add r9,r9,r12\n"
                     "strb.w r3,[r9]\n"
                     "strb.w r7,[r9,#1]\n"
                     "ldr.w r9,[sp,#12]\n"
                     "ldr.w r10,[sp,#24]\n"
                     "cmp r9,r10\n"
                     "bne.w 1b\n"
                     "add sp,sp,#44\n"
                     "pop {r7}\n"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
}

/* Four inputs of two outputs (sums r0, r1) and one pixel; r8 weights, r9 patch. */
#define ONE_FOUR_INPUTS                                                                                                \
    "ldrd r2,r3,[r8],#8\n"                                                                                        \
    "ldrd r4,r5,[r9],#8\n"                                                                                        \
    "sxtb16 r6,r2\n"                                                                                                \
    "sxtb16 r2,r2,ror #8\n"                                                                                        \
    "smlad r0,r4,r6,r0\n"                                                                                         \
    "smlad r1,r4,r2,r1\n"                                                                                         \
    "sxtb16 r6,r3\n"                                                                                                \
    "sxtb16 r3,r3,ror #8\n"                                                                                        \
    "smlad r0,r5,r6,r0\n"                                                                                         \
    "smlad r1,r5,r3,r1\n"
enum { ONE_FOUR_INPUTS_BYTES = 10 * 4 };

/* All pairs of outputs of one pixel: ten instructions for eight products. */
static void one_pixel_asm(const struct block *block) {
    register const struct block *r0 __asm__("r0") = block;
    __asm__ volatile("ldrd r1,r10,[r0,#0]\n"
                     "ldrd r2,r11,[r0,#8]\n"
                     "ldrd r12,r3,[r0,#16]\n"
                     "ldrd r4,lr,[r0,#24]\n"
                     "ldr.w r8,[r0,#44]\n"
                     "adr r5,2f\n"
                     "add r2,r2,r5\n"
                     "push {r1-r4}\n" /* patch, entry, zero2, end of bias */
                     "1:\n"
                     "ldrd r0,r1,[r11],#8\n"
                     "lsl r0,r0,#1\n"
                     "lsl r1,r1,#1\n"
                     "ldr.w r9,[sp]\n"
                     "ldr.w pc,[sp,#4]\n"
                     ".p2align 2\n"
                     "2:\n" ONE_FOUR_INPUTS ONE_FOUR_INPUTS ONE_FOUR_INPUTS ONE_FOUR_INPUTS
                     "cmp r9,r10\n"
                     "bne.w 2b\n"
                     "ldrd r2,r3,[r12],#8\n"
                     "ldrd r4,r5,[r12],#8\n"
                     "ldr.w r6,[sp,#8]\n"
                     "mvn r3,r3\n"
                     "mvn r5,r5\n" REQUANTIZE_WITH("r0", "r2", "r3", "r6") REQUANTIZE_WITH("r1", "r4", "r5", "r6")
                     "strb r0,[lr],#1\n"
                     "strb r1,[lr],#1\n"
                     "ldr.w r2,[sp,#12]\n"
                     "cmp r11,r2\n"
                     "bne.w 1b\n"
                     "add sp,sp,#16\n"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
}

/* All pixels: four at a time, three as four with the last one twice, two or one by one; one by one if the patch has
 * no room for four. */
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
    for (; pixels >= 3 && 32 * fours <= ED_PATCH_BYTES; pixels -= 4) {
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
    block.patch_end = patch + 2 * fours;
    block.skip = (uint32_t)((3 - (fours - 1) % 4) * ONE_FOUR_INPUTS_BYTES + 1);
    for (; pixels > 0; --pixels, in += stride, out += p->outputs) {
        spread_one(in, p->depth, patch);
        if (even_outputs != 0) {
            block.out = out;
            one_pixel_asm(&block);
        }
        if (even_outputs < p->outputs) {
            one_pixel(p, TWICE, in, out, even_outputs);
        }
    }
}

#endif
