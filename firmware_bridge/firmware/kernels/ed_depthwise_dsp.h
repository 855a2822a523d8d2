/* Depthwise 3x3 of any stride and dilation on the DSP extension, four channels at a time. Part of ed_depthwise.c.
 *
 * Taps outside the input are left out: what they would add (input zero point times weight) goes into the bias. So
 * border and interior run the same code, with one to three rows of one to three columns. */
#ifndef ED_DEPTHWISE_DSP_H
#define ED_DEPTHWISE_DSP_H

#include "ed_inside.h"

enum { ED_DW_ROWS = 8, ED_DW_RUNS = 8, ED_DW_ROW_CODE = 24 };

/* Output columns that see the same tap columns first_tap ... first_tap + taps - 1. */
struct ed_dw_run {
    int32_t x, count, first_tap, taps;
    int32_t offset; /* bytes from the start of a row to the first tap of the first output */
};

/* Four channels: what the assembly reads. Sums are doubled, as the first rounding wants them. */
struct ed_dw_group {
    const int8_t *rows[3]; /* the last `taps_y` of them are used */
    uint32_t entry;        /* which is said by where the code is entered */
    int32_t bias[4];
    int8_t *out;
    int32_t out_step, in_step, end; /* bytes between outputs, between their inputs; end of the inputs' offsets */
    int32_t start, dilation;
    uintptr_t weights; /* of the first tap column of row 0, whether it is used or not */
    int32_t zero2;     /* twice the output's zero point, plus one */
    int32_t scale[8];  /* multiplier, right shift (0 or more) */
    uint32_t taps[18]; /* even channels' and odd channels' doubled weights of each tap, as halves */
    int32_t full_bias[ED_DW_RUNS][4];
};

#define ED_DW_TAP(address, w)                                                                                          \
    "ldr.w r4, " address "\n\t"                                                                                        \
    "ldrd r6, lr, [r11, #" w "]\n\t"                                                                                   \
    "sxtb16 r5, r4, ror #8\n\t"                                                                                        \
    "sxtb16 r4, r4\n\t"                                                                                                \
    "smlabb r0, r4, r6, r0\n\t"                                                                                        \
    "smlatt r2, r4, r6, r2\n\t"                                                                                        \
    "smlabb r1, r5, lr, r1\n\t"                                                                                        \
    "smlatt r3, r5, lr, r3\n\t"
#define ED_DW_ROW1(pointer, w0, w1, w2) "ldr.w r8, [r7, #" pointer "]\n\tadd.w r8, r8, r12\n\t" ED_DW_TAP("[r8]", w0)
#define ED_DW_ROW2(pointer, w0, w1, w2) ED_DW_ROW1(pointer, w0, w1, w2) ED_DW_TAP("[r8, r9]", w1)
#define ED_DW_ROW3(pointer, w0, w1, w2) ED_DW_ROW2(pointer, w0, w1, w2) ED_DW_TAP("[r8, r10]", w2)
/* Halves away from zero: twice the product, less one if negative, then the shift, then one more with ssat. */
#define ED_DW_REQUANTIZE(r, scale)                                                                                     \
    "ldrd r4, r5, [r7, #" scale "]\n\t"                                                                                \
    "smmulr " r ", " r ", r4\n\t"                                                                                      \
    "asr.w r4, " r ", #31\n\t"                                                                                         \
    "add.w " r ", r4, " r ", lsl #1\n\t"                                                                               \
    "asr.w " r ", " r ", r5\n\t"                                                                                       \
    "add " r ", " r ", r6\n\t"                                                                                         \
    "ssat " r ", #8, " r ", asr #1\n\t"

/* r0-r3 sums, r7 the group (kept by hand: it may be the frame pointer), r8 a row, r9 and r10 the second and third
 * column, r11 weights, r12 offset in the row. An entry into the middle leaves rows out. */
#define ED_DW_RUN(name, ROW)                                                                                           \
    static void name(struct ed_dw_group *group) {                                                                      \
        register struct ed_dw_group *r0 __asm__("r0") = group;                                                         \
        __asm__ volatile("push {r7}\n\t"                                                                               \
                         "mov r7, r0\n\t"                                                                              \
                         "ldr.w r12, [r7, #48]\n\t"                                                                    \
                         "ldr.w r9, [r7, #52]\n\t"                                                                     \
                         "lsl.w r10, r9, #1\n\t"                                                                       \
                         "ldr.w r11, [r7, #56]\n"                                                                      \
                         "adr r0, 2f\n\t"                                                                              \
                         "ldr.w r1, [r7, #12]\n\t"                                                                     \
                         "add r0, r0, r1\n\t"                                                                          \
                         "str.w r0, [r7, #12]\n\t"                                                                     \
                         "1:\n\t"                                                                                      \
                         "ldrd r0, r1, [r7, #16]\n\t"                                                                  \
                         "ldrd r2, r3, [r7, #24]\n\t"                                                                  \
                         "ldr.w pc, [r7, #12]\n\t"                                                                     \
                         ".p2align 2\n"                                                                                \
                         "2:\n\t" ROW("0", "0", "8", "16") ROW("4", "24", "32", "40") ROW("8", "48", "56", "64")       \
                         "ldr.w r6, [r7, #60]\n\t" ED_DW_REQUANTIZE("r0", "64") ED_DW_REQUANTIZE("r1", "72")           \
                         ED_DW_REQUANTIZE("r2", "80") ED_DW_REQUANTIZE("r3", "88")                                     \
                         "ldrd r4, r5, [r7, #32]\n\t"                                                                  \
                         "strb.w r0, [r4]\n\t"                                                                         \
                         "strb.w r1, [r4, #1]\n\t"                                                                     \
                         "strb.w r2, [r4, #2]\n\t"                                                                     \
                         "strb.w r3, [r4, #3]\n\t"                                                                     \
                         "add r4, r4, r5\n\t"                                                                          \
                         "str.w r4, [r7, #32]\n\t"                                                                     \
                         "ldrd r4, r5, [r7, #40]\n\t"                                                                  \
                         "add r12, r12, r4\n\t"                                                                        \
                         "cmp r12, r5\n\t"                                                                             \
                         "bne.w 1b\n\t"                                                                                \
                         "pop {r7}\n\t"                                                                                \
                         : "+r"(r0)                                                                                    \
                         :                                                                                             \
                         : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory"); \
    }
ED_DW_RUN(ed_dw_run1, ED_DW_ROW1)
ED_DW_RUN(ed_dw_run2, ED_DW_ROW2)
ED_DW_RUN(ed_dw_run3, ED_DW_ROW3)

/* The taps of output `at` inside an input of `size`: the first, and how many. */
static int32_t ed_dw_inside(int32_t at, int32_t stride, int32_t pad, int32_t dilation, int32_t size, int32_t *first) {
    int32_t taps = 0;
    *first = 0;
    for (int32_t i = 0; i < 3; ++i) {
        const int32_t place = at * stride - pad + i * dilation;
        if (place >= 0 && place < size) {
            *first = taps++ == 0 ? i : *first;
        }
    }
    return taps;
}

/* Runs of output columns from the left; 0 if some column sees nothing. */
static int32_t ed_dw_columns(const struct ed_window *w, struct ed_dw_run *runs) {
    int32_t count = 0;
    for (int32_t x = 0; x < w->out_width; ++x) {
        int32_t first;
        const int32_t taps = ed_dw_inside(x, w->stride_x, w->pad_left, w->dilation_x, w->width, &first);
        if (count > 0 && runs[count - 1].first_tap == first && runs[count - 1].taps == taps) {
            ++runs[count - 1].count;
            continue;
        }
        if (taps == 0 || count == ED_DW_RUNS) {
            return 0;
        }
        const int32_t column = x * w->stride_x - w->pad_left + first * w->dilation_x;
        const struct ed_dw_run run = {x, 1, first, taps, column * w->channels};
        runs[count++] = run;
    }
    return count;
}

/* What the taps left out would add, doubled, on top of the bias. */
static void ed_dw_bias(const struct ed_depthwise *p, int32_t channel, int32_t first_row, int32_t rows,
                       const struct ed_dw_run *run, int32_t *bias) {
    for (int32_t k = 0; k < 4; ++k) {
        bias[k] = p->bias[channel + k];
    }
    for (int32_t i = 0; i < 3; ++i) {
        const int row_there = i >= first_row && i < first_row + rows;
        for (int32_t j = 0; j < 3; ++j) {
            if (!(row_there && j >= run->first_tap && j < run->first_tap + run->taps)) {
                const int8_t *weights = p->weights + (3 * i + j) * p->window.channels + channel;
                for (int32_t k = 0; k < 4; ++k) {
                    bias[k] += p->window.in_zero * weights[k];
                }
            }
        }
    }
    for (int32_t k = 0; k < 4; ++k) {
        bias[k] *= 2;
    }
}

static void ed_dw_prepare(const struct ed_depthwise *p, int32_t channel, struct ed_dw_group *group) {
    for (int32_t tap = 0; tap < 9; ++tap) {
        const uint32_t word = ed_load(p->weights + tap * p->window.channels + channel);
        const uint32_t even = ed_even(word), odd = ed_odd(word);
        group->taps[2 * tap] = ed_add_halves(even, even);
        group->taps[2 * tap + 1] = ed_add_halves(odd, odd);
    }
    for (int32_t k = 0; k < 4; ++k) {
        group->scale[2 * k] = p->scale[channel + k].multiplier;
        group->scale[2 * k + 1] = -p->scale[channel + k].shift;
    }
}

struct ed_dw_row {
    const int8_t *rows[3];
    int32_t first_tap, taps;
};

/* One output row of four channels. */
static void ed_dw_row(const struct ed_depthwise *p, int32_t channel, const struct ed_dw_row *row,
                      const struct ed_dw_run *runs, int32_t count, struct ed_dw_group *group) {
    for (int32_t i = 0; i < 3; ++i) {
        group->rows[i] = row->rows[i] + channel;
    }
    for (int32_t n = 0; n < count; ++n) {
        const struct ed_dw_run *run = &runs[n];
        if (row->taps == 3) {
            memcpy(group->bias, group->full_bias[n], sizeof group->bias);
        } else {
            ed_dw_bias(p, channel, row->first_tap, row->taps, run, group->bias);
        }
        const int32_t skipped = 3 - row->taps;
        group->start = run->offset;
        group->end = run->offset + run->count * group->in_step;
        group->weights = (uintptr_t)group->taps + (uintptr_t)((row->first_tap - skipped) * 24 + run->first_tap * 8);
        group->entry = (uint32_t)(skipped * (2 + 8 * run->taps) * 4 + 1);
        (run->taps == 3 ? ed_dw_run3 : run->taps == 2 ? ed_dw_run2 : ed_dw_run1)(group);
    }
}

/* Rows first ... first + count - 1, at most ED_DW_ROWS, of all channels. */
static void ed_dw_rows(const struct ed_depthwise *p, const struct ed_dw_row *rows, int32_t count,
                       const struct ed_dw_run *runs, int32_t run_count, int8_t *out) {
    struct ed_dw_group group;
    const struct ed_window *w = &p->window;
    group.out_step = w->channels;
    group.in_step = w->stride_x * w->channels;
    group.dilation = w->dilation_x * w->channels;
    group.zero2 = 2 * p->zero + 1;
    for (int32_t next = 0; next < w->channels; next += 4) {
        const int32_t channel = next + 4 > w->channels ? w->channels - 4 : next; /* the last four may overlap */
        ed_dw_prepare(p, channel, &group);
        for (int32_t n = 0; n < run_count; ++n) {
            ed_dw_bias(p, channel, 0, 3, &runs[n], group.full_bias[n]);
        }
        group.out = out + channel;
        for (int32_t n = 0; n < count; ++n) {
            ed_dw_row(p, channel, &rows[n], runs, run_count, &group);
        }
    }
}

static int ed_dw_find_rows(const struct ed_window *w, const struct ed_rows *in, int32_t y, struct ed_dw_row *row) {
    row->taps = ed_dw_inside(y, w->stride_y, w->pad_top, w->dilation_y, in->count, &row->first_tap);
    for (int32_t i = 0; i < 3; ++i) { /* the last ones are used */
        const int32_t tap = row->first_tap + i - (3 - row->taps);
        row->rows[i] = tap < row->first_tap ? in->base : ed_row(in, y * w->stride_y - w->pad_top + tap * w->dilation_y);
    }
    return row->taps != 0;
}

/* Returns 0, nothing done, if the layer is not of the kind that this file knows. */
static int ed_depthwise_dsp(const struct ed_depthwise *p, const struct ed_rows *in, int8_t *out, int32_t first,
                            int32_t count) {
    const struct ed_window *w = &p->window;
    struct ed_dw_run runs[ED_DW_RUNS];
    struct ed_dw_row rows[ED_DW_ROWS];
    if (!p->fast || p->low != -128 || p->high != 127 || p->multiplier != 1 || w->taps_y != 3 || w->taps_x != 3 ||
        w->channels < 4) {
        return 0;
    }
    const int32_t run_count = ed_dw_columns(w, runs);
    for (int32_t y = first; y < first + count; ++y) {
        if (run_count == 0 || !ed_dw_find_rows(w, in, y, &rows[0])) {
            return 0;
        }
    }
    for (int32_t done = 0; done < count; done += ED_DW_ROWS) {
        const int32_t batch = count - done < ED_DW_ROWS ? count - done : ED_DW_ROWS;
        for (int32_t n = 0; n < batch; ++n) {
            (void)ed_dw_find_rows(w, in, first + done + n, &rows[n]);
        }
        ed_dw_rows(p, rows, batch, runs, run_count, out + done * w->out_width * w->channels);
    }
    return 1;
}

#endif
