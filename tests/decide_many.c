/* Decides on many rows of scores. Standard input: classes, row, flip, values of logits, values of weights (int32 each),
 * limit (uint64), logits, weights, then rows of `classes` bytes; standard output: decision and confidence (int32, uint32) of each row. */
#include "ed_decide.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    int32_t head[5];
    uint64_t limit;
    if (fread(head, sizeof head, 1, stdin) != 1 || fread(&limit, sizeof limit, 1, stdin) != 1) {
        return 1;
    }
    int32_t *logits = malloc((size_t)head[3] * sizeof *logits);
    int32_t *weights = malloc((size_t)head[0] * sizeof *weights);
    uint8_t *scores = malloc((size_t)head[0]);
    if (fread(logits, sizeof *logits, (size_t)head[3], stdin) != (size_t)head[3]) {
        return 1;
    }
    if (fread(weights, sizeof *weights, (size_t)head[4], stdin) != (size_t)head[4]) {
        return 1;
    }
    const struct ed_decision decision = {logits, head[1], head[0], (uint8_t)head[2], limit, head[4] ? weights : 0};
    while (fread(scores, 1, (size_t)head[0], stdin) == (size_t)head[0]) {
        const int32_t answer[2] = {ed_decide(&decision, scores), (int32_t)ed_decide_confidence(&decision, scores)};
        fwrite(answer, sizeof answer, 1, stdout);
    }
    free(logits);
    free(weights);
    free(scores);
    return 0;
}
