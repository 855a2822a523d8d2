/* See ed_pixels.h. */
#include "ed_pixels.h"

enum { RGB = 3, WHOLE = 256 };

/* A square part of a frame: `row` bytes from one row to the next. */
struct square {
    const uint8_t *pixels;
    int32_t side, row;
};

/* Between pixel `first` and the one after it: `weight` of 256 for the latter. */
struct tap {
    int32_t first, weight;
};

/* Writes never pass what is still to be read: the result is smaller and lies at the frame's start. */
static struct square halve(struct square from, uint8_t *out) {
    const int32_t side = from.side / 2;
    uint8_t *at = out;
    for (int32_t y = 0; y < side; ++y) {
        for (int32_t x = 0; x < side; ++x) {
            const uint8_t *above = from.pixels + 2 * y * from.row + 2 * x * RGB, *below = above + from.row;
            for (int32_t c = 0; c < RGB; ++c) {
                const int32_t sum = above[c] + above[c + RGB] + below[c] + below[c + RGB];
                *at++ = (uint8_t)((sum + 2) >> 2);
            }
        }
    }
    const struct square made = {out, side, side * RGB};
    return made;
}

static struct tap find_tap(int32_t position, int32_t side, int32_t size) {
    const int32_t whole = 2 * size, at = (2 * position + 1) * side - size;
    struct tap tap = {at < 0 ? -1 : at / whole, 0};
    if (tap.first < 0) {
        tap.first = 0;
    } else if (tap.first >= side - 1) {
        tap.first = side - 1;
    } else {
        const int32_t part = WHOLE * (at % whole), down = part / whole, rest = part % whole;
        tap.weight = down + (2 * rest > whole || (2 * rest == whole && (down & 1)));
    }
    return tap;
}

static int32_t across(const uint8_t *pixel, struct tap tap) {
    return pixel[0] * (WHOLE - tap.weight) + (tap.weight ? pixel[RGB] * tap.weight : 0);
}

static uint8_t blend(struct square from, struct tap x, struct tap y, int32_t channel) {
    const uint8_t *above = from.pixels + y.first * from.row + x.first * RGB + channel;
    const int32_t high = across(above, x) * (WHOLE - y.weight);
    const int32_t low = y.weight ? across(above + from.row, x) * y.weight : 0;
    return (uint8_t)((high + low + (1 << 15)) >> 16);
}

static void store(const struct ed_pixels *pixels, const uint8_t *rgb, uint8_t *out) {
    if (pixels->channels == 1) {
        out[0] = pixels->table[(9798 * rgb[0] + 19235 * rgb[1] + 3735 * rgb[2] + (1 << 14)) >> 15];
        return;
    }
    for (int32_t c = 0; c < RGB; ++c) {
        out[c] = pixels->table[rgb[c]];
    }
}

void ed_pixels_fit(const struct ed_pixels *pixels, uint8_t *frame, int32_t width, int32_t height, void *out) {
    const int32_t side = width < height ? width : height, top = (height - side) / 2, left = (width - side) / 2;
    struct square from = {frame + (top * width + left) * RGB, side, width * RGB};
    while (from.side >= 2 * pixels->size) {
        from = halve(from, frame);
    }
    uint8_t *at = out;
    for (int32_t y = 0; y < pixels->size; ++y) {
        const struct tap down = find_tap(y, from.side, pixels->size);
        for (int32_t x = 0; x < pixels->size; ++x) {
            const struct tap right = find_tap(x, from.side, pixels->size);
            uint8_t rgb[RGB];
            for (int32_t c = 0; c < RGB; ++c) {
                rgb[c] = blend(from, right, down, c);
            }
            store(pixels, rgb, at);
            at += pixels->channels;
        }
    }
}
