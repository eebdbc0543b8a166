// Which classes can win a pixel.
#pragma once

#include <cstdint>
#include <vector>

#include "../upsample.hpp"

namespace crf {

std::vector<uint8_t> every_class(int classes);

// The classes whose probability reaches `least` (at most one half) somewhere between the score cells, as
// far as the cells' corners can tell: none is missed.
std::vector<uint8_t> living(const upsample::Scores &scores, float least);

}  // namespace crf
