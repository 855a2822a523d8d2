/* Depthwise 3x3 of any stride and dilation on the DSP extension, four channels at a time. Part of ed_depthwise.c.
 *
 * Taps outside the input are left out: what they would add (input zero point times weight) goes into the bias. So
 * border and interior run the same code, with one to three rows of one to three columns. */
#ifndef ED_DEPTHWISE_DSP_H
#define ED_DEPTHWISE_DSP_H

#include "ed_inside.h"

enum { ED_DW_ROWS = 8, ED_DW_RUNS = 8 };

/* Output columns that see the same tap columns first_tap ... first_tap + taps - 1; bytes from the start of a row to
 * the first tap of the first output, and of the output behind the last. */
struct ed_dw_run {
    int32_t first_tap, taps, start, end;
};

/* The tap rows of one output row, and for each run the taps that lie outside, as bits. */
struct ed_dw_row {
    const int8_t *rows[3]; /* the last `taps` of them are used */
    int32_t first_tap, taps;
    uint32_t missing[ED_DW_RUNS];
};

/* A run as the assembly reads it, in its order. */
struct ed_dw_order {
    int32_t bias[4]; /* doubled, as all sums are: the first rounding wants it */
    uint32_t entry;  /* into the code: how many columns and rows of taps */
    int32_t end;
    uintptr_t weights; /* of the first tap column of row 0, whether it is used or not */
    int32_t start;
};

/* Four channels: what the assembly reads, in its order. */
struct ed_dw_group {
    const int8_t *rows[3];
    uint32_t entry;
    int32_t bias[4];
    int8_t *out;
    int32_t out_step, in_step, end; /* bytes between outputs, between their inputs; end of the inputs' offsets */
    const struct ed_dw_order *run, *run_end;
    int32_t dilation;
    int32_t zero2;     /* twice the output's zero point, plus one */
    int32_t scale[8];  /* multiplier, right shift (0 or more) */
    uint32_t taps[18]; /* even channels' and odd channels' doubled weights of each tap, as halves */
    struct ed_dw_order orders[ED_DW_RUNS];
};

#define ED_DW_TAP(address, w)                                                                                          \
    "ldr.w r4," address "\n"                                                                                        \
    "ldrd r6,lr,[r11,#" w "]\n"                                                                                   \
    "sxtb16 r5,r4,ror #8\n"                                                                                        \
    "sxtb16 r4,r4\n"                                                                                                \
    "smlabb r0,r4,r6,r0\n"                                                                                        \
    "smlatt r2,r4,r6,r2\n"                                                                                        \
    "smlabb r1,r5,lr,r1\n"                                                                                        \
    "smlatt r3,r5,lr,r3\n"
#define ED_DW_ROW1(pointer, w0, w1, w2) "ldr.w r8,[r7,#" pointer "]\nadd.w r8,r8,r12\n" ED_DW_TAP("[r8]", w0)
#define ED_DW_ROW2(pointer, w0, w1, w2) ED_DW_ROW1(pointer, w0, w1, w2) ED_DW_TAP("[r8,r9]", w1)
#define ED_DW_ROW3(pointer, w0, w1, w2) ED_DW_ROW2(pointer, w0, w1, w2) ED_DW_TAP("[r8,r10]", w2)
/* Halves away from zero: twice the product, less one if negative, then the shift, then one more with ssat. */
#define ED_DW_REQUANTIZE(r, scale)                                                                                     \
    "ldrd r4,r5,[r7,#" scale "]\n"                                                                                \
    "smmulr " r "," r ",r4\n"                                                                                      \
    "asr.w r4," r ",#31\n"                                                                                         \
    "add.w " r ",r4," r ",lsl #1\n"                                                                               \
    "asr.w " r "," r ",r5\n"                                                                                       \
    "add " r "," r ",r6\n"                                                                                         \
    "ssat " r ",#8," r ",asr #1\n"

/* Where the code for one, two, three tap columns begins, and how long a row of taps is there. */
enum { ED_DW_ENTRY1 = 1, ED_DW_ENTRY2 = 3 * 40 + 4 + 1, ED_DW_ENTRY3 = 3 * 40 + 3 * 72 + 8 + 1 };

/* One output row. r0-r3 sums, r7 the group (kept by hand: it may be the frame pointer), r8 a row, r9 and r10 the
 * second and third column, r11 weights, r12 offset in the row. An entry into the middle leaves rows out. */
static void ed_dw_runs(struct ed_dw_group *group) {
    register struct ed_dw_group *r0 __asm__("r0") = group;
    __asm__ volatile("push {r7}\n"
                     "mov r7,r0\n"
                     "ldr.w r9,[r7,#56]\n"
                     "lsl.w r10,r9,#1\n"
                     "1:\n"
                     "ldr.w r4,[r7,#48]\n"
                     "ldmia r4!,{r0-r3,r5,r6,r11,r12}\n"
                     "str.w r4,[r7,#48]\n"
                     "strd r0,r1,[r7,#16]\n"
                     "strd r2,r3,[r7,#24]\n"
                     "adr r4,3f\n"
                     "add r5,r5,r4\n"
                     "str.w r5,[r7,#12]\n"
                     "str.w r6,[r7,#44]\n"
                     "2:\n"
                     "ldrd r0,r1,[r7,#16]\n"
                     "ldrd r2,r3,[r7,#24]\n"
                     "ldr.w pc,[r7,#12]\n"
                     ".p2align 2\n"
                     "3:\n" ED_DW_ROW1("0", "0", "8", "16") ED_DW_ROW1("4", "24", "32", "40")
                     ED_DW_ROW1("8", "48", "56", "64") "b.w 4f\n"
                     ED_DW_ROW2("0", "0", "8", "16") ED_DW_ROW2("4", "24", "32", "40")
                     ED_DW_ROW2("8", "48", "56", "64") "b.w 4f\n"
                     ED_DW_ROW3("0", "0", "8", "16") ED_DW_ROW3("4", "24", "32", "40") ED_DW_ROW3("8", "48", "56", "64")
                     "4:\n"
                     "ldr.w r6,[r7,#60]\n" ED_DW_REQUANTIZE("r0", "64") ED_DW_REQUANTIZE("r1", "72")
                     ED_DW_REQUANTIZE("r2", "80") ED_DW_REQUANTIZE("r3", "88")
                     "ldrd r4,r5,[r7,#32]\n"
                     "strb.w r0,[r4]\n"
                     "strb.w r1,[r4,#1]\n"
                     "strb.w r2,[r4,#2]\n"
                     "strb.w r3,[r4,#3]\n"
                     "add r4,r4,r5\n"
                     "str.w r4,[r7,#32]\n"
                     "ldrd r4,r5,[r7,#40]\n"
                     "add r12,r12,r4\n"
                     "cmp r12,r5\n"
                     "bne.w 2b\n"
                     "ldrd r4,r5,[r7,#48]\n"
                     "cmp r4,r5\n"
                     "bne.w 1b\n"
                     "pop {r7}\n"
                     : "+r"(r0)
                     :
                     : "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
}

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
    const int32_t step = w->stride_x * w->channels;
    const int32_t full = (w->pad_left + w->stride_x - 1) / w->stride_x; /* the first column that sees all taps, if any */
    const int32_t room = w->width - 1 - 2 * w->dilation_x + w->pad_left;
    const int32_t full_end = room < 0 ? 0 : room / w->stride_x + 1;
    int32_t count = 0;
    for (int32_t x = 0; x < w->out_width; ++x) {
        int32_t first;
        const int32_t taps = ed_dw_inside(x, w->stride_x, w->pad_left, w->dilation_x, w->width, &first);
        if (count > 0 && runs[count - 1].first_tap == first && runs[count - 1].taps == taps) {
            runs[count - 1].end += step;
            continue;
        }
        if (taps == 0 || count == ED_DW_RUNS) {
            return 0;
        }
        const int32_t start = (x * w->stride_x - w->pad_left + first * w->dilation_x) * w->channels;
        const int32_t same = x == full && full < full_end ? (full_end < w->out_width ? full_end : w->out_width) - full : 1;
        const struct ed_dw_run run = {first, taps, start, start + same * step};
        runs[count++] = run;
        x += same - 1;
    }
    return count;
}

static void ed_dw_find_row(const struct ed_window *w, const struct ed_rows *in, int32_t y, const struct ed_dw_run *runs,
                           int32_t run_count, struct ed_dw_row *row) {
    const int32_t top = y * w->stride_y - w->pad_top;
    row->taps = ed_dw_inside(y, w->stride_y, w->pad_top, w->dilation_y, in->count, &row->first_tap);
    for (int32_t i = 0; i < 3; ++i) {
        const int32_t tap = row->first_tap + i - (3 - row->taps);
        row->rows[i] = tap < row->first_tap ? in->base : ed_row(in, top + tap * w->dilation_y);
    }
    const uint32_t rows_there = ((1u << row->taps) - 1u) << row->first_tap;
    for (int32_t n = 0; n < run_count; ++n) {
        const uint32_t columns_there = ((1u << runs[n].taps) - 1u) << runs[n].first_tap;
        uint32_t there = 0;
        for (int32_t i = 0; i < 3; ++i) {
            there |= (rows_there >> i & 1u) ? columns_there << (3 * i) : 0u;
        }
        row->missing[n] = ~there & 0x1FFu;
    }
}

/* A tap's four weights as doubled halves of the even and the odd channels. */
#define ED_DW_SPREAD                                                                                                   \
    "ldr.w %[a],[%[w]]\n"                                                                                           \
    "add.w %[w],%[w],%[step]\n"                                                                                    \
    "sxtb16 %[b],%[a],ror #8\n"                                                                                    \
    "sxtb16 %[a],%[a]\n"                                                                                            \
    "sadd16 %[b],%[b],%[b]\n"                                                                                      \
    "sadd16 %[a],%[a],%[a]\n"                                                                                      \
    "strd %[a],%[b],[%[to]],#8\n"
#define ED_DW_SCALE                                                                                                    \
    "ldrd %[a],%[b],[%[w]],#8\n"                                                                                  \
    "rsb.w %[b],%[b],#0\n"                                                                                         \
    "strd %[a],%[b],[%[to]],#8\n"

static void ed_dw_prepare(const struct ed_depthwise *p, int32_t channel, struct ed_dw_group *group) {
    const int8_t *weights = p->weights + channel;
    const struct ed_scale *scale = p->scale + channel;
    uint32_t *taps = group->taps, a, b;
    int32_t *scales = group->scale;
    __asm__ volatile(ED_DW_SPREAD ED_DW_SPREAD ED_DW_SPREAD ED_DW_SPREAD ED_DW_SPREAD ED_DW_SPREAD ED_DW_SPREAD
                         ED_DW_SPREAD ED_DW_SPREAD
                     : [w] "+r"(weights), [to] "+r"(taps), [a] "=&r"(a), [b] "=&r"(b)
                     : [step] "r"(p->window.channels)
                     : "memory");
    __asm__ volatile(ED_DW_SCALE ED_DW_SCALE ED_DW_SCALE ED_DW_SCALE
                     : [w] "+r"(scale), [to] "+r"(scales), [a] "=&r"(a), [b] "=&r"(b)
                     :
                     : "memory");
}

/* The bias, and what the missing taps would add; doubled. */
static void ed_dw_bias(const int32_t *bias, int32_t in_zero, uint32_t missing, const uint32_t *taps, int32_t *to) {
    const uint32_t zero = (uint32_t)in_zero & 0xFFFFu, zeros = zero | zero << 16;
    int32_t a = 2 * bias[0], b = 2 * bias[1], c = 2 * bias[2], d = 2 * bias[3];
    for (; missing != 0; missing &= missing - 1) {
        const uint32_t *tap = taps + 2 * __builtin_ctz(missing);
        a = ed_mac_bb(zeros, tap[0], a);
        c = ed_mac_tt(zeros, tap[0], c);
        b = ed_mac_bb(zeros, tap[1], b);
        d = ed_mac_tt(zeros, tap[1], d);
    }
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}

/* What the assembly is to do for an output row, whatever the channels; the bias follows. */
static void ed_dw_orders(const struct ed_dw_row *row, const struct ed_dw_run *runs, int32_t count, struct ed_dw_group *group) {
    static const uint32_t entries[3] = {ED_DW_ENTRY1, ED_DW_ENTRY2, ED_DW_ENTRY3};
    const int32_t skipped = 3 - row->taps;
    const uintptr_t taps = (uintptr_t)group->taps + (uintptr_t)((row->first_tap - skipped) * 24);
    for (int32_t n = 0; n < count; ++n) {
        const struct ed_dw_run *run = &runs[n];
        struct ed_dw_order *order = &group->orders[n];
        order->entry = entries[run->taps - 1] + (uint32_t)(skipped * (8 + 32 * run->taps));
        order->weights = taps + (uintptr_t)(run->first_tap * 8);
        order->start = run->start;
        order->end = run->end;
    }
    group->run_end = group->orders + count;
}

/* At most ED_DW_ROWS output rows, of all channels. */
static void ed_dw_rows(const struct ed_depthwise *p, const struct ed_dw_row *rows, int32_t count,
                       const struct ed_dw_run *runs, int32_t run_count, int8_t *out) {
    struct ed_dw_group group;
    const struct ed_window *w = &p->window;
    const struct ed_dw_row *ordered = 0; /* a row like those of the orders */
    group.out_step = w->channels;
    group.in_step = w->stride_x * w->channels;
    group.dilation = w->dilation_x * w->channels;
    group.zero2 = 2 * p->zero + 1;
    for (int32_t next = 0; next < w->channels; next += 4) {
        const int32_t channel = next + 4 > w->channels ? w->channels - 4 : next; /* the last four may overlap */
        ed_dw_prepare(p, channel, &group);
        group.out = out + channel;
        for (const struct ed_dw_row *row = rows; row != rows + count; ++row) {
            const int like = ordered && row->first_tap == ordered->first_tap && row->taps == ordered->taps;
            if (!like) {
                ed_dw_orders(row, runs, run_count, &group);
                ordered = row;
            }
            if (!like || row == rows) {
                for (int32_t n = 0; n < run_count; ++n) {
                    ed_dw_bias(p->bias + channel, w->in_zero, row->missing[n], group.taps, group.orders[n].bias);
                }
            }
            group.rows[0] = row->rows[0] + channel;
            group.rows[1] = row->rows[1] + channel;
            group.rows[2] = row->rows[2] + channel;
            group.run = group.orders;
            ed_dw_runs(&group);
        }
    }
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
        int32_t tap;
        if (run_count == 0 || !ed_dw_inside(y, w->stride_y, w->pad_top, w->dilation_y, in->count, &tap)) {
            return 0;
        }
    }
    for (int32_t done = 0; done < count; done += ED_DW_ROWS) {
        const int32_t batch = count - done < ED_DW_ROWS ? count - done : ED_DW_ROWS;
        for (int32_t n = 0; n < batch; ++n) {
            ed_dw_find_row(w, in, first + done + n, runs, run_count, &rows[n]);
        }
        ed_dw_rows(p, rows, batch, runs, run_count, out + done * w->out_width * w->channels);
    }
    return 1;
}

#endif
