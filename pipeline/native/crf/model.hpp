// The CRF for pictures of one size in one of its modes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "field.hpp"

namespace crf {

enum class Mode { exact, pruned, live };

std::optional<Mode> mode_named(const char *name);

// By name ("portable", "avx2", "avx512") or the best ("auto"); null where the processor lacks it.
const Kernels *kernels_named(const char *name);

struct Stats {       // of a picture
    int classes;     // that took part
    size_t vertices; // of the lattice of place and colour
    size_t bytes;    // moved by one iteration in which every point takes part, at least
};

class Model {
   public:
    Model(int height, int width, int classes, const Energy &energy, Mode mode, int threads, const Kernels &kernels);

    // Labels and marginals, where they are not null; nothing if a score is not finite.
    std::optional<Stats> infer(const uint8_t *image, const upsample::Scores &scores, upsample::Map y, upsample::Map x, int iterations,
                               uint8_t *labels, ptrdiff_t stride, float *marginals);

   private:
    const Mode mode_;
    const int classes_;
    Team team_;
    Field field_;
    const double gap_;  // behind a rival by more, a class is not alive
};

}  // namespace crf
