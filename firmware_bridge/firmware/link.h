/* Frames of the link between host and device; SPEC.md says every byte. No allocation, no stdio, bounded memory.
 *
 * On the wire: 00 COBS(version type sequence length payload crc) 00. */
#ifndef ED_LINK_H
#define ED_LINK_H

#include <stddef.h>
#include <stdint.h>

enum {
    ED_LINK_VERSION = 1,
    ED_LINK_HEAD_BYTES = 6,
    ED_LINK_CRC_BYTES = 4,
    ED_LINK_OVERHEAD_BYTES = ED_LINK_HEAD_BYTES + ED_LINK_CRC_BYTES
};

/* Bytes of a frame before stuffing, and at most on the wire. */
#define ED_LINK_FRAME_BYTES(payload) ((payload) + ED_LINK_OVERHEAD_BYTES)
#define ED_LINK_WIRE_BYTES(payload) \
    (ED_LINK_FRAME_BYTES(payload) + ED_LINK_FRAME_BYTES(payload) / 254 + 3)

enum ed_link_type {
    ED_LINK_HELLO = 0x01,
    ED_LINK_INPUT = 0x02,
    ED_LINK_RUN = 0x03,
    ED_LINK_DEVICE = 0x81,
    ED_LINK_ACCEPTED = 0x82,
    ED_LINK_OUTPUT = 0x83,
    ED_LINK_RUNNING = 0x84,
    ED_LINK_ERROR = 0xFF
};

/* Why nothing, or no frame, came out. */
enum ed_link_status {
    ED_LINK_FRAME = 1, /* a whole, sound frame */
    ED_LINK_MORE = 0,
    ED_LINK_COBS_MALFORMED = -1,
    ED_LINK_FRAME_TOO_SHORT = -2,
    ED_LINK_CRC_MISMATCH = -3,
    ED_LINK_UNKNOWN_VERSION = -4,
    ED_LINK_LENGTH_MISMATCH = -5,
    ED_LINK_FRAME_TOO_LONG = -6,
    ED_LINK_NO_ROOM = -7
};

struct ed_link_decoder {
    uint8_t *frame; /* version .. crc of the frame under way; after ED_LINK_FRAME: the whole frame */
    uint32_t capacity;
    uint32_t size;
    uint8_t code, left; /* COBS group under way: its code byte, bytes still to come */
    uint8_t begun, too_long;
};

void ed_link_decoder_init(struct ed_link_decoder *decoder, uint8_t *frame, uint32_t capacity);

/* Takes one byte of the wire: ED_LINK_FRAME, ED_LINK_MORE, or the reason a frame that ended here was dropped. */
enum ed_link_status ed_link_decoder_feed(struct ed_link_decoder *decoder, uint8_t byte);

/* Parts of the frame a decoder has just completed; the payload stays until the next byte is fed. */
uint8_t ed_link_type(const struct ed_link_decoder *decoder);
uint16_t ed_link_sequence(const struct ed_link_decoder *decoder);
uint32_t ed_link_length(const struct ed_link_decoder *decoder);
const uint8_t *ed_link_payload(const struct ed_link_decoder *decoder);

/* Writes a frame with both delimiters; returns its bytes or ED_LINK_NO_ROOM. */
int32_t ed_link_encode(uint8_t *wire, uint32_t capacity, uint8_t type, uint16_t sequence, const uint8_t *payload,
                       uint16_t length);

/* CRC-32 of IEEE 802.3 (zlib's): start with 0, go on with the last result. */
uint32_t ed_link_crc(uint32_t crc, const uint8_t *bytes, uint32_t size);

/* Little-endian integers in byte arrays. */
uint32_t ed_link_load(const uint8_t *bytes, uint32_t size);
void ed_link_store(uint8_t *bytes, uint32_t value, uint32_t size);

#endif
