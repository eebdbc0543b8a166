// Which classes can win a pixel.
#pragma once

#include <cstdint>
#include <vector>

#include "../upsample.hpp"

namespace crf {

std::vector<uint8_t> every_class(int classes);

// By how much (in logits) a class must be behind a rival at every pixel so as never to win, where its messages
// are at most `weight` times its largest marginal; infinite if there is no such gap.
double decisive_gap(double weight, int classes);

// The classes that are not behind a rival by more than `gap` everywhere between the score cells, as far as
// the cells' corners can tell: none is missed.
std::vector<uint8_t> living(const upsample::Scores &scores, double gap);

}  // namespace crf
