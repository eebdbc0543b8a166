// A small grey picture of a frame with its pyramid: what motion is measured on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace motion {

constexpr int kPatch = 8;                    // sides of a patch, in pixels
constexpr int kBorder = 2 * kPatch;          // how far a level goes on beyond its edge
constexpr int kSmallest = 2 * kPatch;        // no level has a shorter side

struct Level {
    int height, width;
    ptrdiff_t stride;          // of `image`, in floats
    std::vector<float> image;  // levels 0–255, edges repeated kBorder pixels to every side
    std::vector<float> dx, dy; // central differences, height × width

    const float *at(int y, int x) const { return image.data() + (y + kBorder) * stride + x + kBorder; }
};

// Immutable once made, so threads may share it.
struct Guide {
    std::vector<Level> levels;  // the finest first

    int height() const { return levels[0].height; }
    int width() const { return levels[0].width; }
};

// From a plane of samples of `depth` bits, averaged over the area that each pixel covers.
template <typename T>
Guide make_guide(const T *plane, ptrdiff_t stride, int rows, int columns, int depth, int height, int width);

}  // namespace motion
