/* Calibrated class or abstention from the stored scores of a network, in integers. */
#ifndef ED_DECIDE_H
#define ED_DECIDE_H

#include <stdint.h>

enum { ED_ABSTAINED = -1 };

/* Constants made by firmware_bridge/decision.py. */
struct ed_decision {
    const int32_t *logits; /* [256] for each row: log2 of the unnormalised probability, 20 binary places, by stored byte */
    int32_t row;           /* 256 where every class has its own row, 0 where one row serves all */
    int32_t classes;
    uint8_t flip;   /* 0x80 for int8 scores, whose rows begin at -128; 0 for uint8 */
    uint64_t limit; /* abstains where the sum of all probabilities over that of the class named, 30 binary places, is above */
    const int32_t *weights; /* log2 of each class's decision weight, 20 binary places; NULL: all alike */
};

/* The class (the first whose weight times probability is largest), or ED_ABSTAINED. `scores`: int8 or uint8, one a class. */
int32_t ed_decide(const struct ed_decision *decision, const void *scores);

/* The calibrated probability of that class, 16 binary places. */
uint32_t ed_decide_confidence(const struct ed_decision *decision, const void *scores);

#endif
