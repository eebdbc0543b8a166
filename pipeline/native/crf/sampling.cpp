#include "sampling.hpp"

#include <algorithm>
#include <cmath>

namespace crf {
namespace {

constexpr int kSide = 4;          // of the blocks that are sampled alike, in pixels
constexpr float kSettled = 1.75f;  // margins so many times as wide will do with one point in a block (docs/crf.md)

}  // namespace

void Sampling::choose(const Unary &unary, float margin, const Order &all, Order &order) {
    const int down = (all.height + kSide - 1) / kSide, across = (all.width + kSide - 1) / kSide;
    // The blocks' corners.
    const size_t stride = size_t(down) + 1;
    margin_.resize(stride * (across + 1));
    best_.resize(margin_.size());
    std::vector<float> scores(unary.lanes());
    for (int j = 0; j <= across; ++j)
        for (int i = 0; i <= down; ++i) {
            unary.at(std::min(i * kSide, all.height - 1), std::min(j * kSide, all.width - 1), scores.data());
            float first = scores[0], second = -INFINITY;
            int best = 0;
            for (int k = 1; k < unary.lanes(); ++k) {
                const float score = scores[k];
                second = std::max(second, std::min(first, score));
                if (score > first) first = score, best = k;
            }
            margin_[j * stride + i] = first - second;
            best_[j * stride + i] = uint8_t(best);
        }
    step_.resize(size_t(down) * across);
    for (int j = 0; j < across; ++j)
        for (int i = 0; i < down; ++i) {
            const size_t at[4] = {j * stride + i, j * stride + i + 1, (j + 1) * stride + i, (j + 1) * stride + i + 1};
            float least = INFINITY;
            bool same = true;
            for (const size_t corner : at) {
                least = std::min(least, margin_[corner]);
                same = same && best_[corner] == best_[at[0]];
            }
            step_[size_t(j) * down + i] = !same || least < margin ? 1 : least < kSettled * margin ? 2 : kSide;
        }

    order.row.clear();
    order.column.clear();
    order.count.clear();
    order.step.clear();
    order.tile.clear();
    chosen_.clear();
    for (size_t t = 0; t < all.tiles(); ++t) {
        order.tile.push_back(order.row.size());
        for (size_t p = all.tile[t]; p < all.tile[t + 1]; ++p) {
            const int y = all.row[p], x = all.column[p];
            const int step = step_[size_t(x / kSide) * down + y / kSide];
            // The point of a group of pixels lies in it, right of and below its middle.
            if (y % step != std::min(step / 2, all.height - 1 - y / step * step) ||
                x % step != std::min(step / 2, all.width - 1 - x / step * step))
                continue;
            order.row.push_back(uint16_t(y));
            order.column.push_back(uint16_t(x));
            order.step.push_back(uint8_t(step));
            order.count.push_back(float(std::min(step, all.height - y / step * step) *
                                        std::min(step, all.width - x / step * step)));
            chosen_.push_back(int32_t(p));
        }
    }
    order.tile.push_back(order.row.size());
}

}  // namespace crf
