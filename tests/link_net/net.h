/* A network whose output betrays every byte of its input: FNV-1a of it, twice. For the tests of the link. */
#ifndef NET_H
#define NET_H

#include <stdint.h>

#define NET_MODEL_SHA256 "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
#define NET_LABELS_SHA256 "60303AE22B998861BCE3B28F33EEC1BE758A213C86C93C076DBE9F558C11C752"
#define NET_INPUT_HEIGHT 16
#define NET_INPUT_WIDTH 16
#define NET_INPUT_CHANNELS 3
#define NET_INPUT_BYTES 768
#define NET_INPUT_SCALE 0.0078125
#define NET_INPUT_ZERO 0
#define NET_OUTPUT_BYTES 8
#define NET_OUTPUT_SCALE 0.00390625
#define NET_OUTPUT_ZERO -128

typedef int8_t net_input_t;
typedef uint8_t net_output_t;

net_input_t *net_input(void);
const net_output_t *net_output(void);
void net_run(void);

#ifdef SELF_TEST
#define NET_SELF_TEST 1
int net_self_test(void);
#endif
#ifdef DECIDES
#define NET_DECISION 1
int32_t net_decide(const net_output_t *output);
#endif

#endif
