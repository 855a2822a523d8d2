/* A stand-in for a generated network, to try the link before there is a model: which colour is an 8 x 8 image?
 *
 * Has the interface of a generated net.h. Scores are mean(channel) - mean(all), so the largest is the colour's. */
#ifndef NET_H
#define NET_H

#include <stdint.h>

#define NET_MODEL_SHA256 "0000000000000000000000000000000000000000000000000000000000000000"
#define NET_INPUT_HEIGHT 8
#define NET_INPUT_WIDTH 8
#define NET_INPUT_CHANNELS 3
#define NET_INPUT_BYTES 192
#define NET_INPUT_SCALE 0.0078125
#define NET_INPUT_ZERO 0
#define NET_OUTPUT_BYTES 3
#define NET_OUTPUT_SCALE 0.0078125
#define NET_OUTPUT_ZERO 0

typedef int8_t net_input_t;
typedef int8_t net_output_t;

net_input_t *net_input(void);
const net_output_t *net_output(void);
void net_run(void);

#endif
