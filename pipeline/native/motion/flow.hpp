// Dense optical flow by inverse search of patches.
#pragma once

#include <vector>

#include "guide.hpp"

namespace motion {

struct Field {  // of one level: where each pixel lies in the other picture, relative to itself
    int height = 0, width = 0;
    std::vector<float> u, v;      // columns and rows, in pixels of the level
    std::vector<float> residual;  // mean difference of what is matched, in levels 0–255
};

// From `here` to `there`, down to level `finest`.  T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast Optical
// Flow using Dense Inverse Search", ECCV 2016, without its variational refinement.
Field flow(const Guide &here, const Guide &there, int finest);

}  // namespace motion
