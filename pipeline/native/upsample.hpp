// Bilinear upsampling and argmax in one: labels at picture size, never a score volume at picture size.
#pragma once

#include <cstdint>

namespace upsample {

struct Map {  // pixel i of an axis has its centre at score cell scale * i + offset
    double scale, offset;
};

struct Scores {  // classes × height × width, dense
    const float *data;
    int classes, height, width;
};

// The labels that pixels keep unless another class scores higher by more than a margin.  The next frame's scores move that
// between none, where they have the other class ahead by as much, and twice as much, where they have it as far behind.
struct Before {
    const uint8_t *labels;  // as `out` below
    int64_t stride;
    const float *margin;  // of each score cell, at least 0; interpolated as scores are
    const float *ahead;   // the next frame's scores, as the frame's own; may be null
};

// Labels of picture rows [begin, end) into `out` (row `begin` first, `stride` bytes a row), and the
// number of pixels a class added to `counts`.  False if a score is not finite or beyond 2^126.
bool argmax(const Scores &scores, Map y, Map x, int begin, int end, int width, uint8_t *out, int64_t stride,
            int64_t *counts, const Before *before = nullptr);

// The best class of every score cell (height × width); false as above.
bool winners(const Scores &scores, uint8_t *out);

// Pixels a label, added to `counts` (256).
void count(const uint8_t *labels, int64_t stride, int height, int width, int64_t *counts);

}  // namespace upsample
