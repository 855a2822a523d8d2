/* Decodes the bytes of standard input with link.c; one line a result: "frame TYPE SEQUENCE PAYLOAD WIRE" in hexadecimal,
 * WIRE being the frame encoded again, or the negative status of what was dropped. */
#include "link.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    static uint8_t wire[ED_LINK_WIRE_BYTES(MAX_PAYLOAD)];
    uint8_t *frame = malloc(ED_LINK_FRAME_BYTES(MAX_PAYLOAD)); /* of exactly this size, for the address sanitizer */
    struct ed_link_decoder decoder;
    ed_link_decoder_init(&decoder, frame, ED_LINK_FRAME_BYTES(MAX_PAYLOAD));
    for (int byte = getchar(); byte != EOF; byte = getchar()) {
        const enum ed_link_status status = ed_link_decoder_feed(&decoder, (uint8_t)byte);
        if (status < 0) {
            printf("%d\n", (int)status);
        } else if (status == ED_LINK_FRAME) {
            const uint32_t length = ed_link_length(&decoder);
            printf("frame %02x %04x ", ed_link_type(&decoder), ed_link_sequence(&decoder));
            for (uint32_t i = 0; i < length; ++i) {
                printf("%02x", ed_link_payload(&decoder)[i]);
            }
            const int32_t size = ed_link_encode(wire, sizeof wire, ed_link_type(&decoder), ed_link_sequence(&decoder),
                                                ed_link_payload(&decoder), (uint16_t)length);
            printf(" ");
            for (int32_t i = 0; i < size; ++i) {
                printf("%02x", wire[i]);
            }
            printf("\n");
        }
    }
    free(frame);
    return 0;
}
