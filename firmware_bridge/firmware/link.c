/* The frame codec of link.h: COBS, header, CRC-32. */
#include "link.h"

enum { COBS_FULL = 0xFF };

uint32_t ed_link_crc(uint32_t crc, const uint8_t *bytes, uint32_t size) {
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    crc = ~crc;
    for (uint32_t i = 0; i < size; ++i) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

uint32_t ed_link_load(const uint8_t *bytes, uint32_t size) {
    uint32_t value = 0;
    while (size > 0) {
        value = (value << 8) | bytes[--size];
    }
    return value;
}

void ed_link_store(uint8_t *bytes, uint32_t value, uint32_t size) {
    for (uint32_t i = 0; i < size; ++i) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

static void forget(struct ed_link_decoder *decoder) {
    decoder->size = 0;
    decoder->code = COBS_FULL;
    decoder->left = 0;
    decoder->begun = decoder->too_long = 0;
}

void ed_link_decoder_init(struct ed_link_decoder *decoder, uint8_t *frame, uint32_t capacity) {
    decoder->frame = frame;
    decoder->capacity = capacity;
    forget(decoder);
}

static void append(struct ed_link_decoder *decoder, uint8_t byte) {
    if (decoder->size < decoder->capacity) {
        decoder->frame[decoder->size++] = byte;
    } else {
        decoder->too_long = 1;
    }
}

static enum ed_link_status check(const struct ed_link_decoder *decoder) {
    const uint8_t *frame = decoder->frame;
    if (decoder->too_long) {
        return ED_LINK_FRAME_TOO_LONG;
    }
    if (decoder->left > 0) {
        return ED_LINK_COBS_MALFORMED;
    }
    if (decoder->size < ED_LINK_OVERHEAD_BYTES) {
        return ED_LINK_FRAME_TOO_SHORT;
    }
    const uint32_t body = decoder->size - ED_LINK_CRC_BYTES;
    if (ed_link_crc(0, frame, body) != ed_link_load(frame + body, ED_LINK_CRC_BYTES)) {
        return ED_LINK_CRC_MISMATCH;
    }
    if (frame[0] != ED_LINK_VERSION) {
        return ED_LINK_UNKNOWN_VERSION;
    }
    return ed_link_length(decoder) == body - ED_LINK_HEAD_BYTES ? ED_LINK_FRAME : ED_LINK_LENGTH_MISMATCH;
}

/* The frame's bytes outlive the delimiter that ended it: the next group's first byte starts afresh. */
enum ed_link_status ed_link_decoder_feed(struct ed_link_decoder *decoder, uint8_t byte) {
    if (byte == 0) {
        const enum ed_link_status status = decoder->begun ? check(decoder) : ED_LINK_MORE;
        const uint32_t size = decoder->size;
        forget(decoder);
        decoder->size = size;
        return status;
    }
    if (!decoder->begun) {
        decoder->begun = 1;
        decoder->size = 0;
    } else if (decoder->left == 0 && decoder->code != COBS_FULL) {
        append(decoder, 0);
    }
    if (decoder->left > 0) {
        append(decoder, byte);
        --decoder->left;
    } else {
        decoder->code = byte;
        decoder->left = (uint8_t)(byte - 1);
    }
    return ED_LINK_MORE;
}

uint8_t ed_link_type(const struct ed_link_decoder *decoder) { return decoder->frame[1]; }

uint16_t ed_link_sequence(const struct ed_link_decoder *decoder) {
    return (uint16_t)ed_link_load(decoder->frame + 2, 2);
}

uint32_t ed_link_length(const struct ed_link_decoder *decoder) { return ed_link_load(decoder->frame + 4, 2); }

const uint8_t *ed_link_payload(const struct ed_link_decoder *decoder) {
    return decoder->frame + ED_LINK_HEAD_BYTES;
}

/* Wire under construction: `group` is where the code byte of the COBS group under way lies. */
struct wire {
    uint8_t *bytes;
    uint32_t size, group;
};

static void open_group(struct wire *wire) {
    wire->group = wire->size++;
    wire->bytes[wire->group] = 1;
}

static void put(struct wire *wire, const uint8_t *bytes, uint32_t size) {
    for (uint32_t i = 0; i < size; ++i) {
        if (wire->bytes[wire->group] == COBS_FULL) {
            open_group(wire);
        }
        if (bytes[i] == 0) {
            open_group(wire);
        } else {
            wire->bytes[wire->size++] = bytes[i];
            ++wire->bytes[wire->group];
        }
    }
}

int32_t ed_link_encode(uint8_t *wire, uint32_t capacity, uint8_t type, uint16_t sequence, const uint8_t *payload,
                       uint16_t length) {
    if (capacity < ED_LINK_WIRE_BYTES((uint32_t)length)) {
        return ED_LINK_NO_ROOM;
    }
    uint8_t head[ED_LINK_HEAD_BYTES] = {ED_LINK_VERSION, type, 0, 0, 0, 0};
    ed_link_store(head + 2, sequence, 2);
    ed_link_store(head + 4, length, 2);
    uint8_t tail[ED_LINK_CRC_BYTES];
    const uint32_t crc = ed_link_crc(0, head, sizeof head);
    ed_link_store(tail, ed_link_crc(crc, payload, length), sizeof tail);

    struct wire out = {wire, 0, 0};
    out.bytes[out.size++] = 0;
    open_group(&out);
    put(&out, head, sizeof head);
    put(&out, payload, length);
    put(&out, tail, sizeof tail);
    out.bytes[out.size++] = 0;
    return (int32_t)out.size;
}
