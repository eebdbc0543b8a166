// Where the field needs every pixel, and where one in four or sixteen will do.
#pragma once

#include <cstdint>
#include <vector>

#include "order.hpp"
#include "unary.hpp"

namespace crf {

class Sampling {
   public:
    // Every pixel where two classes are closer than `margin` (in logits) or labels meet, one in 4×4 where
    // that is far, one in 2×2 elsewhere: `order` and `chosen`, its points as numbers among all.
    void choose(const Unary &unary, float margin, const Order &all, Order &order);

    const std::vector<int32_t> &chosen() const { return chosen_; }

   private:
    std::vector<uint8_t> step_;  // of each block: the distance of its points
    std::vector<float> margin_;
    std::vector<uint8_t> best_;
    std::vector<int32_t> chosen_;
};

}  // namespace crf
