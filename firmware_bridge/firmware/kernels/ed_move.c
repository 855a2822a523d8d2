/* Bytes from one place to another: PAD, CONCATENATION, int8 <-> uint8. */
#include "ed_inside.h"

void ed_pad(const struct ed_pad *p, const struct ed_rows *in, int8_t *out, int32_t first, int32_t count) {
    const size_t row_bytes = (size_t)(p->out_width * p->channels);
    for (int32_t y = first - p->top; y < first - p->top + count; ++y) {
        memset(out, p->value, row_bytes);
        if (y >= 0 && y < in->count) {
            memcpy(out + p->left * p->channels, ed_row(in, y), (size_t)(p->width * p->channels));
        }
        out += row_bytes;
    }
}

void ed_flip(const int8_t *in, int8_t *out, int32_t count) {
    int32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint32_t four;
        memcpy(&four, in + i, 4);
        four ^= 0x80808080u;
        memcpy(out + i, &four, 4);
    }
    for (; i < count; ++i) {
        out[i] = (int8_t)(in[i] ^ -128);
    }
}

void ed_interleave(const int8_t *in, int8_t *out, int32_t pixels, int32_t channels, int32_t out_channels) {
    for (; pixels > 0; --pixels) {
        memcpy(out, in, (size_t)channels);
        in += channels;
        out += out_channels;
    }
}
