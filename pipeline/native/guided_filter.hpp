// The guided filter's coefficients on a grid of squares; what guided.cpp turns into labels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "guided.hpp"

namespace guided {

constexpr int padded(int n) { return (n + 7) / 8 * 8; }  // records are whole registers

struct Sample {  // between two neighbours of an axis
    int near, far;
    float weight;  // of the far one
};

inline Sample sample(double at, int count) {
    at = std::min(std::max(at, 0.0), double(count - 1));
    const int near = std::min(int(at), std::max(0, count - 2));
    return {near, std::min(near + 1, count - 1), float(at - near)};
}

// One side of the grid.  Squares are score cells, or equal parts or groups of them, so that the
// probabilities on the grid are the network's own wherever possible: interpolated ones are blurred.
struct Axis {
    std::vector<int> start;         // first pixel of each square, and one past the last
    std::vector<Sample> score;      // where each square's centre lies among the scores
    std::vector<Sample> at;         // where each pixel lies among the squares
    std::vector<int> cell;          // the score cell that each pixel is nearest to
    int squares() const { return int(score.size()); }

    Axis(upsample::Map map, int pixels, int scores, double per_cell) : at(pixels), cell(pixels) {
        const auto square_of = [&](int i) { return (map.scale * i + map.offset + 0.5) * per_cell - 0.5; };
        const double first = std::floor(square_of(0) + 0.5);
        const int count = std::max(1, int(std::floor(square_of(pixels - 1) + 0.5) - first) + 1);
        start.assign(count + 1, 0);
        for (int i = 0; i < pixels; ++i) {
            const double place = square_of(i) - first;
            at[i] = sample(place, count);
            ++start[std::min(std::max(int(std::floor(place + 0.5)), 0), count - 1) + 1];
            cell[i] = int(std::lround(std::min(std::max(map.scale * i + map.offset, 0.0), double(scores - 1))));
        }
        for (int k = 0; k < count; ++k) {
            start[k + 1] += start[k];
            score.push_back(sample((first + k + 0.5) / per_cell - 0.5, scores));
        }
    }
};

struct Grid {
    int height, width, classes, channels;
    int moments, means;  // floats of a square's record: before the solve, and after

    Grid(const Axis &y, const Axis &x, int channels_, int classes_)
        : height(y.squares()),
          width(x.squares()),
          classes(classes_),
          channels(channels_),
          moments(padded(channels + channels * (channels + 1) / 2 + (channels + 1) * classes)),
          means(padded((channels + 1) * classes)) {}
    size_t squares() const { return size_t(height) * width; }
};

// The filter's mean coefficients, a record of grid.means floats a square: for each channel of the guide
// and then for the constant, one coefficient a class of `alive`.  They lie in `memory`.
const float *coefficients(const Guide &guide, const upsample::Scores &scores, const std::vector<uint8_t> &alive,
                          const Axis &y, const Axis &x, const Grid &grid, int radius, float epsilon, Memory &memory);

}  // namespace guided
