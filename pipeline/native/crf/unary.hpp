// Logarithms of the classes' probabilities at the field's points, from coarse scores.
#pragma once

#include <cstdint>
#include <vector>

#include "../upsample.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "order.hpp"
#include "team.hpp"

namespace crf {

class Unary {
   public:
    // Take the scores of the classes of `alive`, and those of the others, each of which is behind one of them by
    // more than `gap` everywhere, as one.
    void load(const upsample::Scores &scores, upsample::Map y, upsample::Map x, const std::vector<uint8_t> &alive,
              double gap, int lanes, int height, int width);

    // Interpolate at all points.
    void spread(const Order &order, const Kernels &kernels, Team &team);

    int lanes() const { return lanes_; }
    const float *values() const { return values_.data(); }                   // points × lanes
    const float *rest() const { return lumped_ ? rest_.data() : nullptr; }  // of the classes left out, a point each

    // Scores of all lanes at a pixel, for whoever wants to know how close they are.
    void at(int y, int x, float *scores) const;

   private:
    struct Sample {  // where a pixel of an axis lies among the cells
        int32_t cell;
        float weight;  // of the cell after it
    };

    int lanes_ = 0, rows_ = 0, columns_ = 0;
    bool lumped_ = false;
    float least_rest_ = 0, most_rest_ = 0;
    std::vector<int32_t> row_cell_;
    std::vector<float> row_weight_;
    std::vector<Sample> column_;
    // Cells, column by column, as pixels are visited.
    Buffer<float> records_;      // × lanes: scores relative to the cell's best
    std::vector<float> others_;  // the score of all other classes together
    Buffer<float> values_, rest_;
};

}  // namespace crf
