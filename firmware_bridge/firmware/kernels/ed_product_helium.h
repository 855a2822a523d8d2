/* Products on Helium: sixteen inputs of four outputs and two pixels at a time. Part of ed_product.c. */
#ifndef ED_PRODUCT_HELIUM_H
#define ED_PRODUCT_HELIUM_H

#include "ed_inside.h"

/* What ed_pair_of_pixels reads, in its order. */
struct ed_helium {
    const int8_t *in[2];
    const int8_t *weights[2]; /* of the first and the second pair of outputs */
    int32_t whole;            /* sixteens of inputs */
    int32_t weights_step;
    const int32_t *bias;
    const struct ed_scale *scale;
    int8_t *out[2];
    int32_t groups, rest, zero, low, high; /* groups of four outputs; inputs behind the last sixteen */
};

/* Sixteen inputs: q0, q1 and q2, q3 two pairs of outputs; q4, q5 two pixels; sums in the even registers. */
#define ED_SIXTEEN_WEIGHTS                                                                                             \
    "vld20.8 {q0,q1},[r1]\n"                                                                                       \
    "vld21.8 {q0,q1},[r1]!\n"                                                                                      \
    "vld20.8 {q2,q3},[r3]\n"                                                                                       \
    "vld21.8 {q2,q3},[r3]!\n"
#define ED_SIXTEEN_PRODUCTS                                                                                            \
    "vmladava.s8 r0,q4,q0\n"                                                                                       \
    "vmladava.s8 r2,q4,q1\n"                                                                                       \
    "vmladava.s8 r4,q4,q2\n"                                                                                       \
    "vmladava.s8 r6,q4,q3\n"                                                                                       \
    "vmladava.s8 r8,q5,q0\n"                                                                                       \
    "vmladava.s8 r10,q5,q1\n"                                                                                      \
    "vmladava.s8 r12,q5,q2\n"                                                                                      \
    "vmladava.s8 lr,q5,q3\n"
/* Four sums -> TFLite's two roundings, zero point, limits, and out: q0 multipliers, q1 shifts. */
#define ED_FOUR_FINISH(a, b, c, d, out)                                                                                \
    "vmov q2[2],q2[0]," a "," c "\n"                                                                              \
    "vmov q2[3],q2[1]," b "," d "\n"                                                                              \
    "vqrdmulh.s32 q2,q2,q0\n"                                                                                      \
    "vshr.s32 q3,q2,#31\n"                                                                                         \
    "vadd.i32 q2,q2,q3\n"                                                                                          \
    "vrshl.s32 q2,q2,q1\n"                                                                                         \
    "vadd.i32 q2,q2,r3\n"                                                                                          \
    "vmax.s32 q2,q2,q6\n"                                                                                          \
    "vmin.s32 q2,q2,q7\n"                                                                                          \
    "vstrb.32 q2,[" out "],#4\n"

/* All groups of four outputs of two pixels. Registers are named because all fourteen are needed; r7 may be the frame
 * pointer and is kept by hand. */
static void ed_pair_of_pixels(struct ed_helium *work) {
    register struct ed_helium *r0 __asm__("r0") = work;
    __asm__ volatile("push {r7}\n"
                     "mov r11,r0\n"
                     "ldr.w r1,[r11,#44]\n"
                     "vctp.8 r1\n"
                     "ldrd r1,r3,[r11,#52]\n"
                     "vdup.32 q6,r1\n"
                     "vdup.32 q7,r3\n"
                     "1:\n"
                     "ldrd r5,r9,[r11,#0]\n"
                     "ldrd r1,r3,[r11,#8]\n"
                     "ldrd r7,r8,[r11,#16]\n"
                     "add r0,r1,r8\n"
                     "add r2,r3,r8\n"
                     "strd r0,r2,[r11,#8]\n"
                     "ldr.w r8,[r11,#24]\n"
                     "ldrd r0,r2,[r8],#8\n"
                     "ldrd r4,r6,[r8],#8\n"
                     "str.w r8,[r11,#24]\n"
                     "mov r8,r0\n"
                     "mov r10,r2\n"
                     "mov r12,r4\n"
                     "mov lr,r6\n"
                     "cbz r7,3f\n"
                     "2:\n" ED_SIXTEEN_WEIGHTS "vldrb.8 q4,[r5],#16\n"
                     "vldrb.8 q5,[r9],#16\n" ED_SIXTEEN_PRODUCTS "subs r7,r7,#1\n"
                     "bne 2b\n"
                     "3:\n"
                     "ldr.w r7,[r11,#44]\n"
                     "cbz r7,4f\n" ED_SIXTEEN_WEIGHTS "vpstt\n"
                     "vldrbt.8 q4,[r5]\n"
                     "vldrbt.8 q5,[r9]\n" ED_SIXTEEN_PRODUCTS "4:\n"
                     "ldr.w r1,[r11,#28]\n"
                     "vld20.32 {q0,q1},[r1]\n"
                     "vld21.32 {q0,q1},[r1]!\n"
                     "str.w r1,[r11,#28]\n"
                     "ldr.w r3,[r11,#48]\n"
                     "ldrd r5,r7,[r11,#32]\n" ED_FOUR_FINISH("r0", "r2", "r4", "r6", "r5")
                     ED_FOUR_FINISH("r8", "r10", "r12", "lr", "r7")
                     "strd r5,r7,[r11,#32]\n"
                     "ldr.w r7,[r11,#40]\n"
                     "subs r7,r7,#1\n"
                     "str.w r7,[r11,#40]\n"
                     "bne.w 1b\n"
                     "pop {r7}\n"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory", "d0", "d1",
                       "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11", "d12", "d13", "d14", "d15");
}

/* An output behind the last group of four. */
static int8_t ed_one_output(const struct ed_product *p, const int8_t *in, int32_t output) {
    const struct ed_scale *scale = &p->scale[output];
    const int8_t *weights = p->weights + output / 2 * ((p->depth + 3) / 4 * 8) + output % 2;
    int32_t sum = p->bias[output];
    for (int32_t k = 0; k < p->depth; ++k, weights += 2) {
        sum += in[k] * *weights;
    }
    return ed_place(ed_rescale(sum, scale), p->zero, p->low, p->high);
}

/* All pixels, `stride` apart, two at a time; the last one may be done twice. */
static void ed_product_helium(const struct ed_product *p, const int8_t *in, int32_t stride, int8_t *out, int32_t pixels) {
    const int32_t pair_bytes = (p->depth + 3) / 4 * 8, groups = p->outputs / 4;
    struct ed_helium work;
    work.whole = p->depth / 16;
    work.rest = p->depth % 16;
    work.weights_step = 2 * pair_bytes;
    work.zero = p->zero;
    work.low = p->low;
    work.high = p->high;
    for (; pixels > 0; pixels -= 2, in += 2 * stride, out += 2 * p->outputs) {
        const int32_t other = pixels > 1;
        const int8_t *next_in = in + other * stride;
        int8_t *next_out = out + other * p->outputs;
        work.in[0] = in, work.in[1] = next_in;
        work.out[0] = out, work.out[1] = next_out;
        work.weights[0] = p->weights, work.weights[1] = p->weights + pair_bytes;
        work.bias = p->bias;
        work.scale = p->scale;
        work.groups = groups;
        if (groups > 0) {
            ed_pair_of_pixels(&work);
        }
        for (int32_t output = 4 * groups; output < p->outputs; ++output) {
            out[output] = ed_one_output(p, in, output);
            next_out[output] = ed_one_output(p, next_in, output);
        }
    }
}

#endif
