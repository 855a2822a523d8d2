/* ADD, MUL, and functions of one value by table. */
#include "ed_inside.h"

void ed_add(const struct ed_add *p, const int8_t *a, const int8_t *b, int8_t *out, int32_t count) {
    for (int32_t i = 0, m = 0, n = 0; i < count; ++i) {
        const int32_t left = ed_rescale((a[m] - p->a_zero) * ((int32_t)1 << p->left), &p->a);
        const int32_t right = ed_rescale((b[n] - p->b_zero) * ((int32_t)1 << p->left), &p->b);
        out[i] = ed_place(ed_rescale(left + right, &p->out), p->zero, p->low, p->high);
        m = m + 1 == p->a_count ? 0 : m + 1;
        n = n + 1 == p->b_count ? 0 : n + 1;
    }
}

void ed_mul(const struct ed_mul *p, const int8_t *a, const int8_t *b, int8_t *out, int32_t count) {
    for (int32_t i = 0, m = 0, n = 0; i < count; ++i) {
        const int32_t product = (a[m] - p->a_zero) * (b[n] - p->b_zero);
        out[i] = ed_place(ed_rescale(product, &p->out), p->zero, p->low, p->high);
        m = m + 1 == p->a_count ? 0 : m + 1;
        n = n + 1 == p->b_count ? 0 : n + 1;
    }
}

void ed_lookup(const int8_t *table, const int8_t *in, int8_t *out, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        out[i] = table[in[i] + 128];
    }
}
