/* The device's side of the conversation in SPEC.md: feed it the bytes that come, it sends the answers.
 *
 * Knows neither network nor UART: both are functions in struct ed_link_device. */
#ifndef ED_LINK_SERVE_H
#define ED_LINK_SERVE_H

#include "link.h"

enum {
    ED_LINK_DESCRIPTION_BYTES = 124, /* payload of DEVICE after its job */
    ED_LINK_CHUNK_HEAD_BYTES = 8,
    ED_LINK_OUTPUT_HEAD_BYTES = 20,
    ED_LINK_SELF_CHECK_AT = 66 /* in the description */
};

enum ed_link_refusal {
    ED_LINK_UNKNOWN_TYPE = 1,
    ED_LINK_BAD_LENGTH = 2,
    ED_LINK_STALE_JOB = 3,
    ED_LINK_OUT_OF_RANGE = 4,
    ED_LINK_INPUT_INCOMPLETE = 5,
    ED_LINK_INPUT_MISMATCH = 6,
    ED_LINK_SELF_CHECK_FAILED = 7
};

enum ed_link_self_check { ED_LINK_UNCHECKED = 0, ED_LINK_PASSED = 1, ED_LINK_FAILED = 2 };

enum { ED_LINK_ABSTAINED = -1, ED_LINK_UNDECIDED = -2 };

/* What is served. `input` is where the next input goes; `run` computes, writes output_bytes to `output` and returns
 * the decision (a class, ED_LINK_ABSTAINED or ED_LINK_UNDECIDED). */
struct ed_link_device {
    const uint8_t *description;
    uint32_t input_bytes, output_bytes;
    uint8_t *(*input)(void);
    int32_t (*run)(uint8_t *output);
    uint32_t (*microseconds)(void);
    void (*send)(const uint8_t *bytes, uint32_t size);
};

/* Memory of one conversation. The caller owns the three buffers: frame ED_LINK_FRAME_BYTES(p), wire
 * ED_LINK_WIRE_BYTES(p), answer p bytes, with p = max_payload >= ED_LINK_OUTPUT_HEAD_BYTES + output_bytes and
 * >= ED_LINK_DESCRIPTION_BYTES + 4. */
struct ed_link_server {
    const struct ed_link_device *device;
    struct ed_link_decoder decoder;
    uint8_t *wire, *answer;
    uint32_t max_payload;
    uint32_t session, job, received, crc; /* crc: of the input received so far */
    uint8_t greeted, done; /* done: `answer` holds the OUTPUT of `job` */
};

void ed_link_server_init(struct ed_link_server *server, const struct ed_link_device *device, uint8_t *frame,
                         uint8_t *wire, uint8_t *answer, uint32_t max_payload);

/* Takes one byte from the host; answers through device->send before it returns. */
void ed_link_server_feed(struct ed_link_server *server, uint8_t byte);

#endif
