#include "lattice.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace crf {
namespace {

constexpr int kFetch = 16;  // probes in flight
constexpr int kPixelsAhead = 16;

constexpr float kAlpha = 1.0f / (1.0f + 1.0f / 32);

}  // namespace

Lattice::Lattice(const Order &order, Sigmas sigmas, Strength strength, int parts)
    : order_(order), strength_(strength), parts_(parts), opened_(order.tiles()) {
    const float deviation = float(std::sqrt(2.0 / 3.0) * (D + 1));
    float scale[D];
    for (int i = 0; i < D; ++i) scale[i] = float(1.0 / std::sqrt(double((i + 2) * (i + 1))) * deviation);
    const auto axis = [](std::vector<float> &to, int count, float sigma, float by) {
        to.resize(count);
        for (int i = 0; i < count; ++i) to[i] = float(i) / sigma * by;
    };
    axis(place_x_, order.width, sigmas.place, scale[0]);
    axis(place_y_, order.height, sigmas.place, scale[1]);
    double most[D] = {place_x_.back(), place_y_.back()};
    for (int i = 2; i < D; ++i) {
        axis(level_[i - 2], 256, sigmas.colour, scale[i]);
        most[i] = level_[i - 2].back();
    }

    // Coordinate j reaches from -j·f[j-1] to the sum of the features after it, and a little further by
    // rounding, to the other corners of the simplex and to their neighbours.
    int bits = 0;
    uint64_t one[D + 1] = {};
    packing_.bias = packing_.all = 0;
    for (int j = 0; j < D; ++j) {
        double high = 0;
        for (int i = j; i < D; ++i) high += most[i];
        const double low = j ? -j * most[j - 1] : 0.0;
        if (!(high - low < double(1 << 21))) throw std::range_error("bi_xy and bi_rgb: too small for this picture, lattice keys would overflow");
        const int64_t bias = int64_t(std::ceil(-low)) + 4 * (D + 1);
        const int64_t range = int64_t(std::ceil(high)) + bias + 4 * (D + 1);
        packing_.shift[j] = bits;
        one[j] = uint64_t(1) << bits;
        packing_.bias += uint64_t(bias) << bits;
        packing_.all += one[j];
        while ((int64_t(1) << (bits - packing_.shift[j])) <= range) ++bits;
        if (bits > 63) throw std::range_error("bi_xy and bi_rgb: too small for this picture, lattice keys would overflow");
    }
    for (int j = 0; j <= D; ++j) packing_.step[j] = packing_.all - uint64_t(D + 1) * one[j];
}

void Lattice::build(const uint8_t *image, int lanes, const Kernels &kernels, Team &team) {
    points_.need(order_.size() + kPixelsAhead);
    if (!strength_.symmetric) after_.need(order_.size());
    const size_t expected = std::max(size_, order_.size() / 8);
    for (size_t p = 0; p < parts_.size(); ++p) parts_[p].table.reset(p ? expected / parts_.size() : expected);
    team.run([&](int part) { collect(part, image, kernels); });
    merge();
    if (size_ * size_t(lanes) / 2 > size_t(INT32_MAX))
        throw std::range_error("the lattice of this picture is too large for so many classes");
    parts_[0].table.open_filter(distinct_);
    for (const Part &part : parts_)
        for (const uint64_t key : part.keys) parts_[0].table.mark(key);
    next_.need(size_);
    follows_.need(size_);
    for (int axis = 0; axis <= D; ++axis) {
        std::memset(follows_.data(), 0, size_);
        team.run([&](int part) { link(part, axis); });
        team.run([&](int part) { chain(part, axis); });
    }
    mass_.need(size_);
    for (const Part &part : parts_) std::copy(part.mass.begin(), part.mass.end(), mass_.data() + part.base);
    blur(mass_.data(), 1, kernels, team);
    team.run([&](int part) { normalise(part, lanes / 2); });
}

// The vertices of one share of the pixels, numbered in the order in which they are met.
void Lattice::collect(int index, const uint8_t *image, const Kernels &kernels) {
    Part &part = parts_[index];
    part.keys.clear();
    part.mass.clear();
    part.forget();
    Simplices<5> s;
    for (size_t t = order_.part[index]; t < order_.part[index + 1]; ++t) {
        for (size_t first = order_.tile[t]; first < order_.tile[t + 1]; first += kBlock) {
            const int count = int(std::min<size_t>(kBlock, order_.tile[t + 1] - first));
            for (int i = 0; i < kBlock; ++i) {
                const size_t p = first + std::min(i, count - 1), y = order_.row[p], x = order_.column[p];
                const uint8_t *colour = image + (y * order_.width + x) * 3;
                s.elevated[0][i] = place_x_[x];
                s.elevated[1][i] = place_y_[y];
                for (int c = 2; c < D; ++c) s.elevated[c][i] = level_[c - 2][colour[c - 2]];
            }
            kernels.simplices5(packing_, s);
            add(part, first, count, s);
        }
        opened_[t] = part.keys.size();
    }
    // pydensecrf works on four pixels at a time and fills the last four up with black ones at the
    // origin; their vertices carry nothing, but the blur goes through them.
    if (index + 1 == int(parts_.size()) && order_.size() % 4 != 0 && order_.count.empty()) {
        for (auto &feature : s.elevated)
            for (float &f : feature) f = 0;
        kernels.simplices5(packing_, s);
        for (int k = 0; k <= D; ++k)
            if (part.table.insert(s.key[k][0], int32_t(part.keys.size())) == int32_t(part.keys.size())) {
                part.keys.push_back(s.key[k][0]);
                part.mass.push_back(0);
            }
        opened_.back() = part.keys.size();
    }
}

// Most vertices were met a moment ago; only the others are asked of the table, all at once.
void Lattice::add(Part &part, size_t first, int count, const Simplices<5> &s) {
    constexpr int kCorners = (D + 1) * kBlock;
    int32_t id[kCorners];
    uint8_t unknown[kCorners];
    const uint64_t *keys = s.key[0];
    int n = 0;
    for (int i = 0; i < kCorners; ++i) {
        const Part::Met &met = part.recent(keys[i]);
        id[i] = met.id;
        unknown[n] = uint8_t(i);
        n += met.key != keys[i];
    }
    for (int j = 0; j < n; ++j) part.table.prefetch(keys[unknown[j]]);
    for (int j = 0; j < n; ++j) {
        const int i = unknown[j];
        const int32_t next = int32_t(part.keys.size());
        id[i] = part.table.insert(keys[i], next);
        if (id[i] == next) {
            part.keys.push_back(keys[i]);
            part.mass.push_back(0);
        }
        part.recent(keys[i]) = {keys[i], id[i]};
    }
    for (int i = 0; i < count; ++i) {
        Vertices<5> &point = points_[first + i];
        const float pixels = order_.count.empty() ? 1.0f : order_.count[first + i];
        for (int k = 0; k <= D; ++k) {
            point.id[k] = id[k * kBlock + i];
            point.weight[k] = s.weight[k][i];
            part.mass[point.id[k]] += point.weight[k] * pixels;
        }
    }
}

// Number all vertices; those that several parts have belong to the first of these.
void Lattice::merge() {
    size_ = distinct_ = 0;
    Table &table = parts_[0].table;
    for (Part &part : parts_) {
        part.base = int32_t(size_);
        part.twins.clear();
        part.twin.assign(part.keys.size(), 0);
        if (&part != &parts_[0]) {
            for (size_t i = 0; i < part.keys.size(); ++i) {
                if (i + kFetch < part.keys.size()) table.prefetch(part.keys[i + kFetch]);
                const int32_t own = part.base + int32_t(i), owner = table.insert(part.keys[i], own);
                if (owner == own) continue;
                part.twins.emplace_back(own, owner);
                part.twin[i] = 1;
            }
        }
        size_ += part.keys.size();
        distinct_ += part.keys.size() - part.twins.size();
    }
}

// Each vertex's next one along an axis.  Most have none, which the small filter mostly knows; the table
// is too large for the nearest caches, so questions to it are asked well before their answers are needed.
void Lattice::link(int index, int axis) {
    const Part &part = parts_[index];
    const Table &table = parts_[0].table;
    const uint64_t step = packing_.step[axis];
    const size_t count = part.keys.size();
    size_t likely[kFetch * 4];
    for (size_t first = 0; first < count; first += kFetch * 4) {
        const size_t end = std::min<size_t>(first + kFetch * 4, count);
        size_t n = 0;
        for (size_t i = first; i < end; ++i) {
            next_[part.base + i] = -1;
            const uint64_t key = part.keys[i] + step;
            likely[n] = i;
            n += int(table.may_have(key)) & int(!part.twin[i]);
        }
        for (size_t k = 0; k < n; ++k) table.prefetch(part.keys[likely[k]] + step);
        for (size_t k = 0; k < n; ++k) {
            const int32_t next = table.find(part.keys[likely[k]] + step);
            next_[part.base + likely[k]] = next;
            if (next >= 0) follows_[next] = 1;
        }
    }
}

// Runs of neighbours; a vertex without any does not change and is in none.
void Lattice::chain(int index, int axis) {
    Part &part = parts_[index];
    int32_t *const chain = part.chain[axis].need(size_ + 1), *end = chain;
    const int32_t begin = part.base, count = int32_t(part.keys.size());
    for (int32_t first = begin; first < begin + count; ++first) {
        int32_t v = next_[first];
        if (follows_[first] || v < 0) continue;
        *end++ = first | INT32_MIN;
        for (; v >= 0; v = next_[v]) *end++ = v;
    }
    part.length[axis] = size_t(end - chain);
}

void Lattice::normalise(int index, int unit) {
    const size_t begin = order_.tile[order_.part[index]], end = order_.tile[order_.part[index + 1]];
    const int32_t base = parts_[index].base;
    for (size_t p = begin; p < end; ++p) {
        Vertices<5> &point = points_[p];
        float sum = 0;
        for (int k = 0; k <= D; ++k) {
            point.id[k] += base;
            sum += point.weight[k] * mass_[point.id[k]] * kAlpha;
        }
        const float strength = strength_.weight * kAlpha * kLog2E / (sum + 1e-20f);
        if (strength_.symmetric) {
            const float scale = std::sqrt(strength);
            for (int k = 0; k <= D; ++k) point.weight[k] *= scale;
        } else {
            after_[p] = strength;
        }
        for (int k = 0; k <= D; ++k) point.id[k] *= unit;
    }
}

void Lattice::blur(float *values, int lanes, const Kernels &kernels, Team &team) const {
    // Vertices that two parts have splatted into are summed up in the first, and given back.
    const auto share = [&](const Part &part, bool back) {
        team.run([&](int thread) {
            const size_t n = part.twins.size(), parts = parts_.size();
            for (size_t i = n * thread / parts; i < n * (thread + 1) / parts; ++i) {
                float *own = values + size_t(part.twins[i].first) * lanes;
                float *owner = values + size_t(part.twins[i].second) * lanes;
                if (back)
                    std::memcpy(own, owner, sizeof(float) * lanes);
                else
                    for (int c = 0; c < lanes; ++c) owner[c] += own[c];
            }
        });
    };
    for (const Part &part : parts_)
        if (!part.twins.empty()) share(part, false);
    for (int axis = 0; axis <= D; ++axis)
        team.run([&](int thread) {
            const Part &part = parts_[thread];
            kernels.blur(part.chain[axis].data(), part.length[axis], values, lanes);
        });
    for (const Part &part : parts_)
        if (!part.twins.empty()) share(part, true);
}

void Lattice::open_tile(size_t t, float *values, float *frozen, bool before, int lanes) const {
    size_t part = 0;
    while (t >= order_.part[part + 1]) ++part;
    const size_t base = parts_[part].base;
    const size_t begin = base + (t == order_.part[part] ? 0 : opened_[t - 1]), end = base + opened_[t];
    const size_t first = begin * lanes, bytes = (end - begin) * lanes * sizeof(float);
    if (before) {
        std::memcpy(values + first, frozen + first, bytes);
        return;
    }
    std::memset(values + first, 0, bytes);
    if (frozen) std::memset(frozen + first, 0, bytes);
}

size_t Lattice::links() const {
    size_t sum = 0;
    for (const Part &part : parts_)
        for (const size_t length : part.length) sum += length;
    return sum;
}

}  // namespace crf
