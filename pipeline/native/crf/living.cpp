#include "living.hpp"

#include <algorithm>
#include <cmath>

#include "../dispatch.hpp"
#include "kernels.hpp"

namespace crf {
namespace {

// The best class of each cell of one row, the first where several are equal.
MULTIVERSION
void best_of_row(const float *scores, int classes, size_t step, int width, float *best, int32_t *winner) {
    for (int x = 0; x < width; ++x) best[x] = scores[x], winner[x] = 0;
    for (int c = 1; c < classes; ++c) {
        const float *RESTRICT row = scores + c * step;
        for (int x = 0; x < width; ++x) {
            const bool better = row[x] > best[x];
            best[x] = better ? row[x] : best[x];
            winner[x] = better ? c : winner[x];
        }
    }
}

}  // namespace

std::vector<uint8_t> every_class(int classes) {
    std::vector<uint8_t> all(classes);
    for (int c = 0; c < classes; ++c) all[c] = uint8_t(c);
    return all;
}

// Let m be the largest marginal of a class that is behind a rival by at least the gap at every pixel.  Its messages
// are at most W·m and the rival's at least 0, so after another iteration m ≤ 1 / (1 + exp(gap - W·m)).  It begins at
// 1 / (1 + exp(gap)) and can grow no further than to the smallest solution of gap = W·m - logit(m); the class wins
// nowhere if W·m ≤ gap there, which is m ≤ 1/2.  Up to W = 4 the right side falls as m grows, so W/2 is the
// gap; beyond, it has a minimum, which the gap must be below or equal to a solution that comes before it.
double decisive_gap(double weight, int classes) {
    const double m = weight <= 4 ? 0.5 : (1 - std::sqrt(1 - 4 / weight)) / 2;
    const double gap = weight * m - std::log(m / (1 - m));
    // No probability is below kLeastProbability, and the best is at least 1 / classes: a gap beyond that is none.
    return gap < -std::log(kLeastProbability * classes) ? gap : HUGE_VAL;
}

std::vector<uint8_t> living(const upsample::Scores &scores, double gap) {
    // Between four cells scores are means of theirs, so a class is behind a rival by at least its smallest
    // gap among the four.
    const int h = scores.height, w = scores.width, classes = scores.classes;
    const size_t step = size_t(h) * w;
    std::vector<int32_t> winner(step);
    std::vector<float> best(w);
    std::vector<uint8_t> alive(classes, 0);
    for (int y = 0; y < h; ++y) {
        best_of_row(scores.data + size_t(y) * w, classes, step, w, best.data(), &winner[size_t(y) * w]);
        for (int x = 0; x < w; ++x) alive[winner[size_t(y) * w + x]] = 1;
    }
    for (int c = 0; c < classes; ++c) {
        const float *mine = scores.data + c * step;
        for (int y = 0; y + (h > 1) < h && !alive[c]; ++y)
            for (int x = 0; x + (w > 1) < w && !alive[c]; ++x) {
                const size_t i = size_t(y) * w + x;
                const size_t at[4] = {i, i + (w > 1), i + (h > 1 ? w : 0), i + (h > 1 ? w : 0) + (w > 1)};
                bool behind = false;
                for (int k = 0; k < 4 && !behind; ++k) {
                    const float *rival = scores.data + winner[at[k]] * step;
                    float least_gap = INFINITY;
                    for (const size_t j : at) least_gap = std::min(least_gap, rival[j] - mine[j]);
                    behind = least_gap > gap;
                }
                if (!behind) alive[c] = 1;
            }
    }
    std::vector<uint8_t> found;
    for (int c = 0; c < classes; ++c)
        if (alive[c]) found.push_back(uint8_t(c));
    return found;
}

}  // namespace crf
