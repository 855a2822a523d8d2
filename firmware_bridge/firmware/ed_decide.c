/* See ed_decide.h. A class's probability is one over the sum of 2^(l - l_class) over all classes, l being the table's logits. */
#include "ed_decide.h"

enum { PLACES = 20, ROOTS = 64, ROOT_PLACES = 14, SPAN = 31, TIE = 16 };

static const uint64_t ONE = 1u << 30;

/* round(2^(30 - i/64)) */
static const uint32_t roots[ROOTS] = {
    1073741824u, 1062175491u, 1050733751u, 1039415261u, 1028218693u, 1017142735u, 1006186087u, 995347464u,
    984625594u, 974019220u, 963527098u, 953147997u, 942880699u, 932724001u, 922676710u, 912737649u,
    902905651u, 893179563u, 883558244u, 874040567u, 864625413u, 855311680u, 846098274u, 836984114u,
    827968132u, 819049271u, 810226483u, 801498734u, 792865000u, 784324269u, 775875538u, 767517817u,
    759250125u, 751071493u, 742980960u, 734977579u, 727060411u, 719228525u, 711481005u, 703816941u,
    696235434u, 688735596u, 681316545u, 673977412u, 666717336u, 659535466u, 652430958u, 645402981u,
    638450708u, 631573326u, 624770026u, 618040012u, 611382493u, 604796689u, 598281827u, 591837143u,
    585461881u, 579155293u, 572916640u, 566745190u, 560640218u, 554601009u, 548626854u, 542717053u,
};

static int32_t logit(const struct ed_decision *decision, const uint8_t *scores, int32_t class) {
    return decision->logits[class * decision->row + (scores[class] ^ decision->flip)];
}

/* 2^-(part / 2^20) with 30 binary places: a root of two, times 1 - x + x^2/2 for what is below a 64th. */
static uint64_t root(uint32_t part) {
    const uint64_t x = ((uint64_t)(part & ((1u << ROOT_PLACES) - 1u)) * 744261118u) >> PLACES;
    const uint64_t below = ONE - x + ((x * x) >> 31);
    return (roots[part >> ROOT_PLACES] * below + ONE / 2) >> 30;
}

/* 2^(l / 2^20) with 30 binary places; 0 below 2^-31, and 2^61 from 2^31 on. */
static uint64_t power(int32_t l) {
    if (l > 0) {
        const uint32_t up = (uint32_t)l + ((1u << PLACES) - 1u), whole = up >> PLACES;
        return whole >= SPAN ? ONE << SPAN : root((whole << PLACES) - (uint32_t)l) << whole;
    }
    const uint32_t d = (uint32_t)-l, whole = d >> PLACES;
    if (whole >= SPAN) {
        return 0;
    }
    const uint64_t value = root(d & ((1u << PLACES) - 1u));
    return whole == 0 ? value : (value + (1u << (whole - 1))) >> whole;
}

static int32_t preferred(const struct ed_decision *decision, const uint8_t *scores, int32_t class) {
    return logit(decision, scores, class) + (decision->weights ? decision->weights[class] : 0);
}

/* The first class that is as much preferred as any, up to what the rounding of the weights may be. */
static int32_t find_named(const struct ed_decision *decision, const uint8_t *scores) {
    int32_t top = preferred(decision, scores, 0), class = 0;
    for (int32_t other = 1; other < decision->classes; ++other) {
        const int32_t value = preferred(decision, scores, other);
        top = value > top ? value : top;
    }
    top -= decision->weights ? TIE : 0;
    while (preferred(decision, scores, class) < top) {
        ++class;
    }
    return class;
}

static uint64_t sum_over_named(const struct ed_decision *decision, const uint8_t *scores, int32_t named) {
    const int32_t own = logit(decision, scores, named);
    uint64_t sum = 0;
    for (int32_t class = 0; class < decision->classes; ++class) {
        const uint64_t more = sum + power(logit(decision, scores, class) - own);
        sum = more < sum ? UINT64_MAX : more;
    }
    return sum;
}

int32_t ed_decide(const struct ed_decision *decision, const void *scores) {
    const int32_t named = find_named(decision, scores);
    return sum_over_named(decision, scores, named) > decision->limit ? ED_ABSTAINED : named;
}

uint32_t ed_decide_confidence(const struct ed_decision *decision, const void *scores) {
    const uint64_t sum = sum_over_named(decision, scores, find_named(decision, scores));
    if (sum > (uint64_t)1 << 62) {
        return 0;
    }
    return (uint32_t)((((uint64_t)1 << 46) + sum / 2) / sum);
}
