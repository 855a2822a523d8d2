/* The device's side of the conversation; see link_serve.h and SPEC.md. */
#include "link_serve.h"

#include <string.h>

void ed_link_server_init(struct ed_link_server *server, const struct ed_link_device *device, uint8_t *frame,
                         uint8_t *wire, uint8_t *answer, uint32_t max_payload) {
    memset(server, 0, sizeof *server);
    server->device = device;
    server->wire = wire;
    server->answer = answer;
    server->max_payload = max_payload;
    ed_link_decoder_init(&server->decoder, frame, ED_LINK_FRAME_BYTES(max_payload));
}

static void reply(const struct ed_link_server *server, uint8_t type, const uint8_t *payload, uint32_t length) {
    const int32_t size = ed_link_encode(server->wire, ED_LINK_WIRE_BYTES(server->max_payload), type,
                                        ed_link_sequence(&server->decoder), payload, (uint16_t)length);
    if (size > 0) {
        server->device->send(server->wire, (uint32_t)size);
    }
}

static void refuse(const struct ed_link_server *server, enum ed_link_refusal code, uint32_t detail) {
    uint8_t payload[12];
    ed_link_store(payload, server->job, 4);
    ed_link_store(payload + 4, (uint32_t)code, 2);
    ed_link_store(payload + 6, ed_link_type(&server->decoder), 2);
    ed_link_store(payload + 8, detail, 4);
    reply(server, ED_LINK_ERROR, payload, sizeof payload);
}

static void begin(struct ed_link_server *server, uint32_t job) {
    server->job = job;
    server->received = 0;
    server->crc = 0;
    server->done = 0;
}

/* A HELLO that is repeated changes nothing: what was received of an input stays. */
static void hello(struct ed_link_server *server, const uint8_t *payload) {
    const uint32_t session = ed_link_load(payload, 4);
    if (!server->greeted || session != server->session) {
        server->greeted = 1;
        server->session = session;
        begin(server, session);
    }
    uint8_t answer[4 + ED_LINK_DESCRIPTION_BYTES];
    ed_link_store(answer, session, 4);
    memcpy(answer + 4, server->device->description, ED_LINK_DESCRIPTION_BYTES);
    reply(server, ED_LINK_DEVICE, answer, sizeof answer);
}

static int is_older(uint32_t job, uint32_t than) { return ((job - than) >> 31) != 0; }

static void take(struct ed_link_server *server, uint32_t offset, const uint8_t *bytes, uint32_t size) {
    if (offset == server->received && !server->done) {
        memcpy(server->device->input() + offset, bytes, size);
        server->crc = ed_link_crc(server->crc, bytes, size);
        server->received += size;
    }
}

static void input(struct ed_link_server *server, const uint8_t *payload, uint32_t length) {
    const uint32_t job = ed_link_load(payload, 4), offset = ed_link_load(payload + 4, 4);
    const uint32_t size = length - ED_LINK_CHUNK_HEAD_BYTES, whole = server->device->input_bytes;
    if (is_older(job, server->job)) {
        refuse(server, ED_LINK_STALE_JOB, job);
        return;
    }
    if (offset > whole || size > whole - offset) {
        refuse(server, ED_LINK_OUT_OF_RANGE, whole);
        return;
    }
    if (job != server->job) {
        begin(server, job);
    }
    take(server, offset, payload + ED_LINK_CHUNK_HEAD_BYTES, size);
    uint8_t answer[8];
    ed_link_store(answer, job, 4);
    ed_link_store(answer + 4, server->received, 4);
    reply(server, ED_LINK_ACCEPTED, answer, sizeof answer);
}

static void compute(struct ed_link_server *server) {
    const struct ed_link_device *device = server->device;
    uint8_t *answer = server->answer;
    uint8_t job[4];
    ed_link_store(job, server->job, 4);
    reply(server, ED_LINK_RUNNING, job, sizeof job);
    const uint32_t start = device->microseconds();
    const int32_t decision = device->run(answer + ED_LINK_OUTPUT_HEAD_BYTES);
    const uint32_t took = device->microseconds() - start;
    memset(answer, 0, ED_LINK_OUTPUT_HEAD_BYTES);
    ed_link_store(answer, server->job, 4);
    ed_link_store(answer + 4, server->crc, 4);
    ed_link_store(answer + 8, took, 4);
    ed_link_store(answer + 12, (uint32_t)decision, 4);
    answer[16] = device->description[ED_LINK_SELF_CHECK_AT];
    server->done = 1;
}

/* The CRC is taken anew from where the input lies: damage in memory is seen as well as damage on the way. */
static void run(struct ed_link_server *server, const uint8_t *payload) {
    const struct ed_link_device *device = server->device;
    const uint32_t job = ed_link_load(payload, 4), crc = ed_link_load(payload + 4, 4);
    if (device->description[ED_LINK_SELF_CHECK_AT] == ED_LINK_FAILED) {
        refuse(server, ED_LINK_SELF_CHECK_FAILED, 0);
    } else if (is_older(job, server->job)) {
        refuse(server, ED_LINK_STALE_JOB, job);
    } else if (job != server->job || server->received != device->input_bytes) {
        refuse(server, ED_LINK_INPUT_INCOMPLETE, job == server->job ? server->received : 0);
    } else if (crc != server->crc ||
               (!server->done && crc != ed_link_crc(0, device->input(), device->input_bytes))) {
        begin(server, job);
        refuse(server, ED_LINK_INPUT_MISMATCH, crc);
    } else {
        if (!server->done) {
            compute(server);
        }
        reply(server, ED_LINK_OUTPUT, server->answer, ED_LINK_OUTPUT_HEAD_BYTES + device->output_bytes);
    }
}

static void handle(struct ed_link_server *server) {
    const uint8_t type = ed_link_type(&server->decoder);
    const uint8_t *payload = ed_link_payload(&server->decoder);
    const uint32_t length = ed_link_length(&server->decoder);
    if (type == ED_LINK_HELLO && length == 4) {
        hello(server, payload);
    } else if (type == ED_LINK_INPUT && length > ED_LINK_CHUNK_HEAD_BYTES) {
        input(server, payload, length);
    } else if (type == ED_LINK_RUN && length == 8) {
        run(server, payload);
    } else if (type == ED_LINK_HELLO || type == ED_LINK_INPUT || type == ED_LINK_RUN) {
        refuse(server, ED_LINK_BAD_LENGTH, length);
    } else if (type < 0x80) {
        refuse(server, ED_LINK_UNKNOWN_TYPE, type);
    }
}

void ed_link_server_feed(struct ed_link_server *server, uint8_t byte) {
    if (ed_link_decoder_feed(&server->decoder, byte) == ED_LINK_FRAME) {
        handle(server);
    }
}
