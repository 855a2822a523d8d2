/* The instructions of the DSP extension (Cortex-M4, M7, M33, M55) that the kernels use; compilers have intrinsics
 * for some of them only, and not under the same names. */
#ifndef ED_DSP_H
#define ED_DSP_H

#include <stdint.h>
#include <string.h>

#define ED_DSP_TWO(name, instruction, rest)                                                                            \
    static inline uint32_t name(uint32_t a, uint32_t b) {                                                              \
        uint32_t r;                                                                                                    \
        __asm__(instruction " %0, %1, %2" rest : "=r"(r) : "r"(a), "r"(b));                                            \
        return r;                                                                                                      \
    }
#define ED_DSP_ONE(name, instruction, rest)                                                                            \
    static inline uint32_t name(uint32_t a) {                                                                          \
        uint32_t r;                                                                                                    \
        __asm__(instruction " %0, %1" rest : "=r"(r) : "r"(a));                                                        \
        return r;                                                                                                      \
    }
#define ED_DSP_SUM(name, instruction)                                                                                  \
    static inline int32_t name(uint32_t a, uint32_t b, int32_t sum) {                                                  \
        int32_t r;                                                                                                     \
        __asm__(instruction " %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(sum));                                   \
        return r;                                                                                                      \
    }

ED_DSP_ONE(ed_even, "sxtb16", "")         /* bytes 0 and 2 as halves */
ED_DSP_ONE(ed_odd, "sxtb16", ", ror #8")  /* bytes 1 and 3 */
ED_DSP_TWO(ed_low_halves, "pkhbt", ", lsl #16")  /* a's lower half, above it b's lower half */
ED_DSP_TWO(ed_high_halves, "pkhtb", ", asr #16") /* a's upper half, below it b's upper half */
ED_DSP_TWO(ed_add_halves, "sadd16", "")
ED_DSP_TWO(ed_high_rounded, "smmulr", "") /* (a * b + 2^31) >> 32 */
ED_DSP_SUM(ed_dot2, "smlad")
ED_DSP_SUM(ed_mac_bb, "smlabb") /* lower half times lower half */
ED_DSP_SUM(ed_mac_tt, "smlatt")

static inline uint32_t ed_load(const void *at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

#endif
