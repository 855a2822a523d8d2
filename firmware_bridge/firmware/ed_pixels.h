/* A camera's frame -> the input of a network, in integers: section 5 of the bridge's SPEC.md, byte for byte. */
#ifndef ED_PIXELS_H
#define ED_PIXELS_H

#include <stdint.h>

struct ed_pixels {
    const uint8_t *table; /* [256]: what each pixel value is stored as */
    int32_t size;         /* side of the network's input */
    int32_t channels;     /* 3: red, green, blue; 1: grey */
};

/* Crops to the centred square, halves, resizes and quantises `frame`, uint8 [height][width][3] in red, green, blue, into
 * `out`, [size][size][channels]. The frame is its scratch memory: it is destroyed. Sides of at most 16384. */
void ed_pixels_fit(const struct ed_pixels *pixels, uint8_t *frame, int32_t width, int32_t height, void *out);

#endif
