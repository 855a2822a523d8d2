/* SOFTMAX in fixed point, as TFLite's reference kernel: gemmlowp's exp and reciprocal. */
#include "ed_inside.h"

static int32_t saturating_left(int32_t a, int32_t shift) {
    const int64_t wide = (int64_t)a * ((int64_t)1 << shift);
    return wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
}

/* exp(a) in Q0.31 for a in [-1/4, 0) in Q0.31. */
static int32_t exp_quarter(int32_t a) {
    const int32_t eighth = INT32_C(1895147668), third = INT32_C(715827883); /* exp(-1/8), 1/3 */
    const int32_t x = a + (INT32_C(1) << 28);
    const int32_t x2 = ed_high(x, x), x3 = ed_high(x2, x), x4 = ed_high(x2, x2);
    const int32_t tail = ed_halve(ed_high(ed_halve(x4, 2) + x3, third) + x2, 1);
    return eighth + ed_high(eighth, x + tail);
}

/* exp(a) in Q0.31 for a <= 0 in Q5.26. */
static int32_t exp_negative(int32_t a) {
    static const int32_t powers[7] = {/* exp(-2^k) in Q0.31 for k = -2 ... 4 */
        INT32_C(1672461947), INT32_C(1302514674), INT32_C(790015084), INT32_C(290630308),
        INT32_C(39332535),   INT32_C(720401),     INT32_C(242)};
    const int32_t quarter = INT32_C(1) << 24;
    const int32_t low = (a & (quarter - 1)) - quarter; /* in [-1/4, 0) */
    int32_t result = exp_quarter(low * 32);
    const int32_t rest = low - a;
    for (int32_t k = 0; k < 7; ++k) {
        if (rest & (quarter << k)) {
            result = ed_high(result, powers[k]);
        }
    }
    return a == 0 ? INT32_MAX : result;
}

/* 1 / (1 + a) in Q0.31 for a in [0, 1) in Q0.31: three Newton steps. */
static int32_t one_over_one_plus(int32_t a) {
    const int32_t half = (int32_t)(((int64_t)a + INT32_MAX + 1) >> 1); /* (1 + a) / 2, halves up */
    int32_t x = INT32_C(1515870810) + ed_high(half, -INT32_C(1010580540)); /* 48/17 - 32/17 * half, in Q2.29 */
    for (int32_t step = 0; step < 3; ++step) {
        const int32_t error = (INT32_C(1) << 29) - ed_high(half, x);
        x += saturating_left(ed_high(x, error), 2);
    }
    return saturating_left(x, 1);
}

static int32_t leading_zeros(uint32_t a) {
    int32_t zeros = 0;
    for (; zeros < 32 && !(a >> 31); a <<= 1) {
        ++zeros;
    }
    return zeros;
}

static int32_t scaled(const struct ed_softmax *p, int32_t difference) {
    return ed_high((int32_t)((uint32_t)difference << p->shift), p->multiplier);
}

static void softmax(const struct ed_softmax *p, const int8_t *in, int8_t *out) {
    int32_t most = -128, sum = 0; /* sum in Q12.19 */
    for (int32_t i = 0; i < p->depth; ++i) {
        most = in[i] > most ? in[i] : most;
    }
    for (int32_t i = 0; i < p->depth; ++i) {
        if (in[i] - most >= p->least) {
            sum += ed_halve(exp_negative(scaled(p, in[i] - most)), 12);
        }
    }
    const int32_t zeros = leading_zeros((uint32_t)sum);
    const int32_t inverse = one_over_one_plus((int32_t)(((uint32_t)sum << zeros) - ((uint32_t)1 << 31)));
    for (int32_t i = 0; i < p->depth; ++i) {
        int32_t value = -128;
        if (in[i] - most >= p->least) {
            const int32_t part = ed_high(inverse, exp_negative(scaled(p, in[i] - most)));
            const int32_t shift = 12 - zeros + 31 - 8;
            value += shift > 31 ? 0 : ed_halve(part, shift);
        }
        out[i] = ed_clamp(value, -128, 127);
    }
}

void ed_softmax(const struct ed_softmax *p, const int8_t *in, int8_t *out, int32_t rows) {
    for (; rows > 0; --rows) {
        softmax(p, in, out);
        in += p->depth;
        out += p->depth;
    }
}
