#include "field.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace crf {
namespace {

constexpr float kPadding = -2e6f;  // score of a lane without a class
// Messages sum up to the weights, but for the symmetric normalisation, which may pass them by a little.
constexpr float kBounded = 20.0f;
constexpr float kLeastProbability = 1e-5f;
constexpr float kFloor = -1e6f;    // any class that far behind is as unlikely as can be

}  // namespace

Field::Field(int height, int width, const Energy &energy, const Kernels &kernels, Team &team)
    : energy_(energy),
      kernels_(kernels),
      team_(team),
      order_(height, width, team.size()),
      spatial_(order_, energy.pos_xy, energy.symmetric, kernels, team),
      bilateral_(order_, {energy.bi_xy, energy.bi_rgb}, energy.symmetric, team.size()) {}

void Field::set_unary(const upsample::Scores &scores, upsample::Map my, upsample::Map mx,
                      const std::vector<uint8_t> &alive) {
    alive_ = alive;
    lumped_ = int(alive.size()) < scores.classes;
    lanes_ = (int(alive.size()) + 7) / 8 * 8;
    const int h = scores.height, w = scores.width;
    const size_t cells = size_t(h) * w;
    // Cells (column by column, as pixels are visited) × lanes, each relative to the cell's best class: no
    // sum of them can overflow.
    std::vector<float> most(cells, -INFINITY);
    for (int c = 0; c < scores.classes; ++c)
        for (size_t i = 0; i < cells; ++i) most[i] = std::max(most[i], scores.data[c * cells + i]);
    records_.need(cells * lanes_);
    std::fill_n(records_.data(), cells * lanes_, kPadding);
    for (size_t k = 0; k < alive.size(); ++k)
        for (int i = 0; i < h; ++i)
            for (int j = 0; j < w; ++j) {
                const float score = scores.data[(size_t(alive[k]) * h + i) * w + j] - most[size_t(i) * w + j];
                records_[(size_t(j) * h + i) * lanes_ + k] = std::max(score, kFloor);
            }
    std::vector<float> others;
    if (lumped_) {
        std::vector<uint8_t> dead(scores.classes, 1);
        for (const uint8_t c : alive) dead[c] = 0;
        std::vector<float> sums(cells, 0.0f);
        for (int c = 0; c < scores.classes; ++c)
            if (dead[c])
                for (size_t i = 0; i < cells; ++i)
                    sums[i] += std::exp(std::max(scores.data[c * cells + i] - most[i], -60.0f));
        others.resize(cells);
        for (int i = 0; i < h; ++i)
            for (int j = 0; j < w; ++j) others[size_t(j) * h + i] = std::log(sums[size_t(i) * w + j]);
        rest_.need(order_.size() + 8);
    }
    const float least_rest = kLeastProbability * float(scores.classes - int(alive.size()));
    std::vector<int32_t> cell(order_.height);
    std::vector<float> weight(order_.height);
    for (int y = 0; y < order_.height; ++y) {
        const double at = std::min(std::max(my.scale * y + my.offset, 0.0), double(h - 1));
        cell[y] = int(at);
        weight[y] = float(at - cell[y]);
    }
    unary_.need(order_.size() * lanes_);
    team_.run([&](int thread) {
        const size_t record = size_t(h) * lanes_;
        std::vector<float> between(record + 8), others_between(h);
        float *column = between.data() + (64 - reinterpret_cast<uintptr_t>(between.data()) % 64) % 32 / 4;
        for (size_t t = order_.part[thread]; t < order_.part[thread + 1]; ++t) {
            const size_t begin = order_.tile[t], end = order_.tile[t + 1];
            const int top = order_.pixel[begin] / order_.width, tall = order_.pixel[end - 1] / order_.width - top + 1;
            const int left = order_.pixel[begin] % order_.width;
            const size_t low = size_t(cell[top]) * lanes_;
            const size_t high = size_t(std::min(cell[top + tall - 1] + 2, h)) * lanes_;
            for (size_t p = begin; p < end; p += tall) {
                const int x = left + int((p - begin) / tall);
                const double at = std::min(std::max(mx.scale * x + mx.offset, 0.0), double(w - 1));
                const int near = int(at), far = std::min(near + 1, w - 1);
                const float across = float(at - near);
                const float *a = records_.data() + near * record, *b = records_.data() + far * record;
                for (size_t i = low; i < high; ++i) column[i] = a[i] + (b[i] - a[i]) * across;
                if (lumped_)
                    for (int i = 0; i < h; ++i) {
                        const float one = others[size_t(near) * h + i], two = others[size_t(far) * h + i];
                        others_between[i] = one + (two - one) * across;
                    }
                kernels_.unary({column, cell.data(), weight.data(), h - 1,
                                lumped_ ? others_between.data() : nullptr, least_rest},
                               top, tall, lanes_, unary_.data() + p * lanes_, lumped_ ? rest_.data() + p : nullptr);
            }
        }
    });
}

void Field::infer(int iterations, uint8_t *labels, ptrdiff_t stride, float *marginals, int classes) {
    for (Buffer<float> &values : values_) values.need(bilateral_.size() * lanes_);
    spatial_.prepare(lanes_);
    if (marginals && alive_.size() < size_t(classes))
        std::fill_n(marginals, size_t(classes) * order_.size(), 0.0f);
    sweep(true, iterations == 0, labels, stride, marginals);
    for (int i = 0; i < iterations; ++i) {
        spatial_.finish();
        bilateral_.blur(values_[0].data(), lanes_, kernels_, team_);
        sweep(false, i + 1 == iterations, labels, stride, marginals);
    }
}

void Field::sweep(bool first, bool last, uint8_t *labels, ptrdiff_t stride, float *marginals) {
    const float scales[2] = {energy_.bi_w / (1.0f + 1.0f / 32), energy_.pos_w / (1.0f + 1.0f / 4)};
    if (!energy_.symmetric && !first) {
        bilateral_scale_.resize(order_.size());
        spatial_scale_.resize(order_.size());
        for (size_t p = 0; p < order_.size(); ++p) {
            bilateral_scale_[p] = scales[0] * bilateral_.after()[p];
            spatial_scale_[p] = scales[1] * spatial_.after()[p];
        }
    }
    float *const to = values_[first ? 0 : 1].data();
    team_.run([&](int thread) {
        Buffer<float> q;
        if (last) q.need(size_t(kTile) * kTile * lanes_);
        Pass pass{};
        pass.lanes = lanes_;
        pass.unary = unary_.data();
        pass.bounded = energy_.bi_w + energy_.pos_w <= kBounded;
        pass.rest = lumped_ ? rest_.data() : nullptr;
        pass.bilateral = bilateral_.points();
        pass.spatial = spatial_.points();
        pass.bilateral_from = first ? nullptr : values_[0].data();
        pass.spatial_from = first ? nullptr : spatial_.blurred();
        pass.bilateral_to = last ? nullptr : to;
        pass.bilateral_scale = energy_.symmetric ? &scales[0] : bilateral_scale_.data();
        pass.spatial_scale = energy_.symmetric ? &scales[1] : spatial_scale_.data();
        pass.scale_step = energy_.symmetric ? 0 : 1;
        pass.q = last ? q.data() : nullptr;
        for (size_t t = order_.part[thread]; t < order_.part[thread + 1]; ++t) {
            pass.begin = order_.tile[t];
            pass.end = order_.tile[t + 1];
            if (!last) {
                bilateral_.open_tile(t, to, lanes_);
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
    for (size_t p = begin; p < end; ++p, q += lanes_) {
        const size_t pixel = order_.pixel[p];
        if (labels) {
            int best = 0;
            for (int k = 1; k < int(alive_.size()); ++k)
                if (q[k] > q[best]) best = k;
            labels[pixel / order_.width * stride + pixel % order_.width] = alive_[best];
        }
        if (marginals)
            for (size_t k = 0; k < alive_.size(); ++k) marginals[alive_[k] * order_.size() + pixel] = q[k];
    }
}

}  // namespace crf
