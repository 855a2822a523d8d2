/* ed_pixels.c on frames from standard input: size, channels, width, height (int32 each), table, frame; until the end. */
#include "ed_pixels.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    int32_t head[4];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        const size_t bytes = (size_t)head[2] * (size_t)head[3] * 3, made = (size_t)(head[0] * head[0] * head[1]);
        uint8_t table[256], *frame = malloc(bytes), *out = malloc(made);
        if (fread(table, sizeof table, 1, stdin) != 1 || fread(frame, 1, bytes, stdin) != bytes) {
            return 1;
        }
        const struct ed_pixels pixels = {table, head[0], head[1]};
        ed_pixels_fit(&pixels, frame, head[2], head[3], out);
        fwrite(out, 1, made, stdout);
        free(frame);
        free(out);
    }
    return 0;
}
