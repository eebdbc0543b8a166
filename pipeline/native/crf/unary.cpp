#include "unary.hpp"

#include <algorithm>
#include <cmath>

namespace crf {
namespace {

constexpr float kPadding = -2e6f;  // score of a lane without a class
constexpr float kFloor = -1e6f;    // any class that far behind is as unlikely as can be

}  // namespace

void Unary::load(const upsample::Scores &scores, upsample::Map my, upsample::Map mx, const std::vector<uint8_t> &alive,
                 double gap, int lanes, int height, int width) {
    lanes_ = lanes;
    lumped_ = int(alive.size()) < scores.classes;
    const int others = scores.classes - int(alive.size());
    least_rest_ = kLeastProbability * float(others);
    // Interpolated sums are too large where one class has most of them in one cell, and another in the next.
    most_rest_ = lumped_ ? float(std::log(double(others)) - gap) : 0.0f;
    rows_ = scores.height;
    columns_ = scores.width;
    const int h = rows_, w = columns_;
    const size_t cells = size_t(h) * w;
    // Relative to the cell's best class: no sum can overflow.
    std::vector<float> most(cells, -INFINITY);
    for (int c = 0; c < scores.classes; ++c)
        for (size_t i = 0; i < cells; ++i) most[i] = std::max(most[i], scores.data[c * cells + i]);
    std::fill_n(records_.need(cells * lanes_), cells * lanes_, kPadding);
    for (size_t k = 0; k < alive.size(); ++k)
        for (int i = 0; i < h; ++i)
            for (int j = 0; j < w; ++j) {
                const float score = scores.data[(size_t(alive[k]) * h + i) * w + j] - most[size_t(i) * w + j];
                records_[(size_t(j) * h + i) * lanes_ + k] = std::max(score, kFloor);
            }
    if (lumped_) {
        std::vector<uint8_t> dead(scores.classes, 1);
        for (const uint8_t c : alive) dead[c] = 0;
        others_.assign(cells, 0.0f);
        for (int c = 0; c < scores.classes; ++c)
            for (int i = 0; i < h && dead[c]; ++i)
                for (int j = 0; j < w; ++j) {
                    const float score = scores.data[(size_t(c) * h + i) * w + j] - most[size_t(i) * w + j];
                    others_[size_t(j) * h + i] += std::exp(std::max(score, -60.0f));
                }
        for (float &score : others_) score = std::log(score);
    }
    const auto sample = [](upsample::Map map, int pixel, int count) {
        const double at = std::min(std::max(map.scale * pixel + map.offset, 0.0), double(count - 1));
        return Sample{int32_t(at), float(at - int32_t(at))};
    };
    row_cell_.resize(height);
    row_weight_.resize(height);
    for (int y = 0; y < height; ++y) {
        const Sample found = sample(my, y, h);
        row_cell_[y] = found.cell;
        row_weight_[y] = found.weight;
    }
    column_.resize(width);
    for (int x = 0; x < width; ++x) column_[x] = sample(mx, x, w);
}

void Unary::spread(const Order &order, const Kernels &kernels, Team &team) {
    values_.need((order.size() + kSweep) * lanes_);
    if (lumped_) rest_.need(order.size() + kSweep);
    team.run([&](int thread) {
        const size_t record = size_t(rows_) * lanes_;
        Buffer<float> column;
        column.need(record);
        std::vector<float> others(rows_);
        for (size_t t = order.part[thread]; t < order.part[thread + 1]; ++t)
            for (size_t p = order.tile[t], next; p < order.tile[t + 1]; p = next) {
                for (next = p; next < order.tile[t + 1] && order.column[next] == order.column[p];) ++next;
                const Sample x = column_[order.column[p]];
                const int far = std::min(x.cell + 1, columns_ - 1);
                const int low = row_cell_[order.row[p]], high = std::min(row_cell_[order.row[next - 1]] + 2, rows_);
                const float *a = records_.data() + x.cell * record, *b = records_.data() + far * record;
                for (size_t i = size_t(low) * lanes_; i < size_t(high) * lanes_; ++i)
                    column[i] = a[i] + (b[i] - a[i]) * x.weight;
                for (int i = low; lumped_ && i < high; ++i) {
                    const float one = others_[size_t(x.cell) * rows_ + i], two = others_[size_t(far) * rows_ + i];
                    others[i] = one + (two - one) * x.weight;
                }
                const Upsampling up{column.data(), row_cell_.data(), row_weight_.data(), rows_ - 1,
                                    lumped_ ? others.data() : nullptr, least_rest_, most_rest_};
                kernels.unary(up, order.row.data() + p, int(next - p), lanes_, values_.data() + p * lanes_,
                              lumped_ ? rest_.data() + p : nullptr);
            }
    });
}

void Unary::at(int y, int x, float *scores) const {
    const Sample across = column_[x];
    const int above = row_cell_[y], below = std::min(above + 1, rows_ - 1);
    const int far = std::min(across.cell + 1, columns_ - 1);
    const auto cell = [&](int i, int j) { return records_.data() + (size_t(j) * rows_ + i) * lanes_; };
    const float *a = cell(above, across.cell), *b = cell(below, across.cell), *c = cell(above, far), *d = cell(below, far);
    const float down = row_weight_[y];
    for (int k = 0; k < lanes_; ++k) {
        const float left = a[k] + (b[k] - a[k]) * down, right = c[k] + (d[k] - c[k]) * down;
        scores[k] = left + (right - left) * across.weight;
    }
}

}  // namespace crf
