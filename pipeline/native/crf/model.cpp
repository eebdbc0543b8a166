#include "model.hpp"

#include "living.hpp"

#include <cmath>
#include <cstring>

namespace crf {

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
    if ((best || !std::strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return &avx512_kernels();
    if ((best || !std::strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &avx2_kernels();
#endif
    return best || !std::strcmp(name, "portable") ? &portable_kernels() : nullptr;
}

Model::Model(int height, int width, int classes, const Energy &energy, Mode mode, int threads, const Kernels &kernels)
    : mode_(mode), classes_(classes), team_(threads), field_(height, width, energy, mode == Mode::live, kernels, team_) {
    // With p the largest probability of a class and W the sum of the weights, its messages are at most
    // W times its largest marginal m, and m ≤ p·exp(W·m) has a solution that starts at p as long as
    // p ≤ 1 / (e·W); it is at most 1 / W.
    const double weight = double(energy.pos_w) + double(energy.bi_w);
    least_ = float(1.0 / std::max(2.718281828 * weight, 2.0));
}

std::optional<Stats> Model::infer(const uint8_t *image, const upsample::Scores &scores, upsample::Map y,
                                  upsample::Map x, int iterations, uint8_t *labels, ptrdiff_t stride,
                                  float *marginals) {
    const size_t count = size_t(scores.classes) * scores.height * scores.width;
    for (size_t i = 0; i < count; ++i)
        if (!std::isfinite(scores.data[i])) return std::nullopt;
    const std::vector<uint8_t> alive = mode_ == Mode::exact ? every_class(classes_) : living(scores, least_);
    field_.start(image, scores, y, x, alive);
    field_.infer(iterations, labels, stride, marginals, classes_);
    return Stats{int(alive.size()), field_.bilateral().distinct(), field_.bytes()};
}

}  // namespace crf
