// The guided filter on class probabilities: labels that follow the picture's edges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "upsample.hpp"

namespace guided {

struct Guide {  // height × width × channels (1 or 3), pixels dense, rows `stride` bytes apart
    const uint8_t *data;
    ptrdiff_t stride;
    int height, width, channels;
};

struct Options {
    double per_cell_y, per_cell_x;  // squares a score cell, on which the filter's coefficients are computed
    int radius;                     // of the filter's window, in such squares
    int reach;                      // a pixel may take a class that is best within so many score cells
    float epsilon;                  // variance of the guide (levels 0–1) below which the filter only smooths
};

using Memory = std::vector<float>;  // kept by the caller from picture to picture

// Labels at the guide's size into `out` (`stride` bytes a row); false if a score is not finite.
bool labels(const Guide &guide, const upsample::Scores &scores, upsample::Map y, upsample::Map x,
            const Options &options, uint8_t *out, ptrdiff_t stride, Memory &memory);

}  // namespace guided
