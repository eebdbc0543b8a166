#include "model.hpp"

#include "living.hpp"

#include <cfloat>
#include <cmath>
#include <cstring>

#if defined(CRF_X86_KERNELS)
#include <cpuid.h>
#endif

namespace crf {
namespace {

// Messages that are normalised before and after filtering may sum up to more than their weight, where a pixel has
// more of its like around it than these have: hardly ever by more than this (docs/crf.md).
constexpr double kSurplus = 1.2;

// All that -march=x86-64-v3 and -v4 may use, not just what the loops are written with.
#if defined(CRF_X86_KERNELS)
bool has_leaf(unsigned leaf, unsigned bits) {
    unsigned a, b, c, d;
    return __get_cpuid(leaf, &a, &b, &c, &d) && (c & bits) == bits;
}
bool has_avx2() {
    constexpr unsigned kLzcnt = 1u << 5, kMovbe = 1u << 22, kF16c = 1u << 29;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") && has_leaf(1, kMovbe | kF16c) &&
           has_leaf(0x80000001, kLzcnt);
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd");
}
#endif

}  // namespace

std::optional<Mode> mode_named(const char *name) {
    if (!std::strcmp(name, "exact")) return Mode::exact;
    if (!std::strcmp(name, "pruned")) return Mode::pruned;
    if (!std::strcmp(name, "live")) return Mode::live;
    return std::nullopt;
}

const Kernels *kernels_named(const char *name) {
    const bool best = !std::strcmp(name, "auto");
#if defined(CRF_X86_KERNELS)
    __builtin_cpu_init();
    if ((best || !std::strcmp(name, "avx512")) && has_avx512()) return &avx512_kernels();
    if ((best || !std::strcmp(name, "avx2")) && has_avx2()) return &avx2_kernels();
#endif
    return best || !std::strcmp(name, "portable") ? &portable_kernels() : nullptr;
}

Model::Model(int height, int width, int classes, const Energy &energy, Mode mode, int threads, const Kernels &kernels)
    : mode_(mode),
      classes_(classes),
      team_(threads),
      field_(height, width, energy, mode == Mode::live, kernels, team_),
      gap_(decisive_gap((double(energy.pos_w) + double(energy.bi_w)) * (energy.symmetric ? kSurplus : 1.0), classes)) {}

std::optional<Stats> Model::infer(const uint8_t *image, const upsample::Scores &scores, upsample::Map y,
                                  upsample::Map x, int iterations, uint8_t *labels, ptrdiff_t stride,
                                  float *marginals) {
    const size_t count = size_t(scores.classes) * scores.height * scores.width;
    bool finite = true;
    for (size_t i = 0; i < count; ++i) finite &= std::fabs(scores.data[i]) <= FLT_MAX;
    if (!finite) return std::nullopt;
    const std::vector<uint8_t> alive = mode_ == Mode::exact ? every_class(classes_) : living(scores, gap_);
    field_.infer(image, scores, y, x, alive, gap_, iterations, labels, stride, marginals);
    return Stats{int(alive.size()), field_.vertices(), field_.bytes()};
}

}  // namespace crf
