#include "field.hpp"

#include <algorithm>

namespace crf {
namespace {

// Messages sum up to the weights, but for the symmetric normalisation, which may pass them by a little.
constexpr float kBounded = 20.0f;

// A class that is further behind than this share of all weights was hardly ever seen to win; messages
// that are normalised afterwards reach further.
constexpr float kMargin = 0.25f, kMarginAfter = 0.35f;

}  // namespace

Field::Field(int height, int width, const Energy &energy, bool sampled, const Kernels &kernels, Team &team)
    : energy_(energy),
      sampled_(sampled),
      kernels_(kernels),
      team_(team),
      order_(height, width, team.size()),
      all_(order_),
      spatial_(order_, energy.pos_xy, {energy.pos_w, energy.symmetric}, sampled, kernels, team),
      bilateral_(order_, {energy.bi_xy, energy.bi_rgb}, {energy.bi_w, energy.symmetric}, team.size()) {}

void Field::start(const uint8_t *image, const upsample::Scores &scores, upsample::Map y, upsample::Map x,
                  const std::vector<uint8_t> &alive) {
    alive_ = alive;
    unary_.load(scores, y, x, alive, order_.height, order_.width);
    if (sampled_) {
        const float share = energy_.symmetric ? kMargin : kMarginAfter;
        sampling_.choose(unary_, share * (energy_.pos_w + energy_.bi_w), all_, order_);
        spatial_.choose(sampling_.chosen());
    }
    unary_.spread(order_, kernels_, team_);
    bilateral_.build(image, unary_.lanes(), kernels_, team_);
}

void Field::infer(int iterations, uint8_t *labels, ptrdiff_t stride, float *marginals, int classes) {
    for (Buffer<float> &values : values_) values.need(bilateral_.size() * lanes());
    spatial_.prepare(lanes());
    if (marginals && alive_.size() < size_t(classes))
        std::fill_n(marginals, size_t(classes) * order_.pixels(), 0.0f);
    sweep(true, iterations == 0, labels, stride, marginals);
    for (int i = 0; i < iterations; ++i) {
        spatial_.finish();
        bilateral_.blur(values_[0].data(), lanes(), kernels_, team_);
        sweep(false, i + 1 == iterations, labels, stride, marginals);
    }
}

void Field::sweep(bool first, bool last, uint8_t *labels, ptrdiff_t stride, float *marginals) {
    float *const to = values_[first ? 0 : 1].data();
    team_.run([&](int thread) {
        Buffer<float> q;
        if (last) q.need(size_t(kTile) * kTile * lanes());
        Pass pass{};
        pass.lanes = lanes();
        pass.unary = unary_.values();
        pass.bounded = energy_.bi_w + energy_.pos_w <= kBounded;
        pass.rest = unary_.rest();
        pass.count = order_.count.empty() ? nullptr : order_.count.data();
        pass.bilateral = bilateral_.points();
        pass.spatial = spatial_.points();
        pass.bilateral_from = first ? nullptr : values_[0].data();
        pass.spatial_from = first ? nullptr : spatial_.blurred();
        pass.bilateral_to = last ? nullptr : to;
        pass.bilateral_scale = bilateral_.after();
        pass.spatial_scale = spatial_.after();
        pass.q = last ? q.data() : nullptr;
        for (size_t t = order_.part[thread]; t < order_.part[thread + 1]; ++t) {
            pass.begin = order_.tile[t];
            pass.end = order_.tile[t + 1];
            if (!last) {
                bilateral_.open_tile(t, to, lanes());
                spatial_.open_tile(thread, t);
                pass.spatial_to = spatial_.splatted(thread);
                pass.spatial_offset = spatial_.offset(thread);
            }
            kernels_.pass(pass);
            if (!last) spatial_.close_tile(thread, t);
            if (last) write(pass.begin, pass.end, q.data(), labels, stride, marginals);
        }
    });
    if (!first && !last)
        std::swap(values_[0], values_[1]);
}

void Field::write(size_t begin, size_t end, const float *q, uint8_t *labels, ptrdiff_t stride, float *marginals) const {
    uint8_t best[kTile * kTile];
    if (labels) kernels_.best(q, int(end - begin), lanes(), best);
    if (labels && !marginals && order_.step.empty()) {
        for (size_t p = begin; p < end; ++p)
            labels[order_.row[p] * stride + order_.column[p]] = alive_[best[p - begin]];
        return;
    }
    for (size_t p = begin; p < end; ++p, q += lanes()) {
        // A point's square of pixels.
        const int step = order_.step.empty() ? 1 : order_.step[p];
        const int top = order_.row[p] / step * step, left = order_.column[p] / step * step;
        const int bottom = std::min(top + step, order_.height), right = std::min(left + step, order_.width);
        if (labels) {
            const uint8_t label = alive_[best[p - begin]];
            for (int y = top; y < bottom; ++y)
                for (int x = left; x < right; ++x) labels[y * stride + x] = label;
        }
        if (marginals)
            for (size_t k = 0; k < alive_.size(); ++k)
                for (int y = top; y < bottom; ++y)
                    for (int x = left; x < right; ++x)
                        marginals[(alive_[k] * size_t(order_.height) + y) * order_.width + x] = q[k];
    }
}

}  // namespace crf
