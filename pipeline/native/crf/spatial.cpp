#include "spatial.hpp"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace crf {
namespace {

constexpr int kBias = 1 << 24;
constexpr float kAlpha = 1.0f / (1.0f + 0.25f);

}  // namespace

Spatial::Spatial(const Order &order, float sigma, Strength strength, bool keep, const Kernels &kernels, Team &team)
    : order_(order), strength_(strength), kernels_(kernels), shares_(team.size()) {
    const float deviation = float(std::sqrt(2.0 / 3.0) * 3);
    const float scale[2] = {float(1.0 / std::sqrt(2.0) * deviation), float(1.0 / std::sqrt(6.0) * deviation)};
    // About 1.2 vertices a pixel at a deviation of one pixel; below a quarter only the pixel itself counts.
    if (!(sigma >= 0.25f)) throw std::range_error("pos_xy: too small for this picture");
    const auto step = [](int axis) {
        const uint64_t all = 1 + (uint64_t(1) << 32);
        return axis == 0 ? all - 3 : axis == 1 ? all - (uint64_t(3) << 32) : all;
    };
    const uint64_t both = 1 + (uint64_t(1) << 32);
    const Packing<2> packing{{0, 32}, kBias * both, both, {step(0), step(1), step(2)}};
    std::vector<std::pair<int, int>> corners(order.size() * 3);
    points_.need(order.size() + 16);
    std::fill_n(points_.data() + order.size(), 16, Vertices<2>{});
    Simplices<2> s;
    for (size_t first = 0; first < order.size(); first += kBlock) {
        const int count = int(std::min<size_t>(kBlock, order.size() - first));
        for (int i = 0; i < kBlock; ++i) {
            const size_t p = first + std::min(i, count - 1);
            s.elevated[0][i] = float(order.column[p]) / sigma * scale[0];
            s.elevated[1][i] = float(order.row[p]) / sigma * scale[1];
        }
        kernels.simplices2(packing, s);
        for (int i = 0; i < count; ++i)
            for (int k = 0; k < 3; ++k) {
                const int k0 = int(uint32_t(s.key[k][i])) - kBias, k1 = int(s.key[k][i] >> 32) - kBias;
                corners[(first + i) * 3 + k] = {(k0 - k1) / 3, k0 + k1};
                points_[first + i].weight[k] = s.weight[k][i];
            }
    }
    locate(corners);
    if (keep) plain_.assign(points_.data(), points_.data() + order.size());
    normalise();
}

void Spatial::choose(const std::vector<int32_t> &chosen) {
    for (size_t i = 0; i < chosen.size(); ++i) points_[i] = plain_[chosen[i]];
    lanes_ = 0;
    unit_ = 1;
    find_runs();
    normalise();
}

// Columns and rows from the corners of all pixels, and who touches which.
void Spatial::locate(const std::vector<std::pair<int, int>> &corners) {
    int left = INT_MAX, right = INT_MIN, low = INT_MAX, high = INT_MIN;
    for (const auto &[u, r] : corners) {
        left = std::min(left, u), right = std::max(right, u);
        low = std::min(low, r), high = std::max(high, r);
    }
    left &= ~1;  // keeps what is odd odd
    columns_ = right - left + 1;
    const int base = (low >> 1) - 1;
    rows_ = (high >> 1) - base + 2;  // with an empty row at either end

    const size_t tiles = order_.tiles();
    std::vector<int> first(tiles, INT_MAX);
    reach_.assign(tiles, 0);
    settled_.assign(tiles, 0);
    std::vector<std::pair<int, int>> at(corners.size());  // column, row
    for (size_t t = 0; t < tiles; ++t)
        for (size_t i = order_.tile[t] * 3; i < order_.tile[t + 1] * 3; ++i) {
            const int u = corners[i].first - left, q = ((corners[i].second - (u & 1)) >> 1) - base;
            at[i] = {u, q};
            first[t] = std::min(first[t], u);
            reach_[t] = std::max(reach_[t], u + 1);
        }

    places_ = 0;
    int earlier = 0;  // columns before it belong to the shares so far
    for (size_t p = 0; p < shares_.size(); ++p) {
        Share &share = shares_[p];
        const size_t begin = order_.part[p], end = order_.part[p + 1];
        share.first = columns_, share.last = -1;
        for (size_t t = begin; t < end; ++t) {
            share.first = std::min(share.first, first[t]);
            share.last = std::max(share.last, reach_[t] - 1);
            if (t > begin) reach_[t] = std::max(reach_[t], reach_[t - 1]);
        }
        if (begin == end) share.first = 0, share.last = -1;
        int later = columns_;
        for (size_t t = end; t < tiles; ++t) later = std::min(later, first[t]);
        share.place = places_;
        places_ += size_t(share.last - share.first + 1);
        if (places_ * rows_ > size_t(INT32_MAX)) throw std::range_error("pos_xy: too small for a picture of this size");
        const bool all = later == columns_;
        share.own_begin = earlier == 0 ? 0 : earlier + 2;
        share.own_end = begin == end ? share.own_begin : all ? columns_ : later - 2;
        int settled = columns_ + 2;
        for (size_t t = end; t-- > begin;) {
            settled_[t] = settled;
            settled = std::min(settled, first[t]);
        }
        earlier = std::max(earlier, share.last + 1);
        for (size_t i = order_.tile[begin] * 3; i < order_.tile[end] * 3; ++i) {
            const auto [u, q] = at[i];
            points_[i / 3].id[i % 3] = int32_t((share.place + size_t(u - share.first)) * rows_ + q);
        }
        restart(share);
        share.span = 0;
        for (size_t t = begin; t < end; ++t) {
            share.opened = std::max(share.opened, reach_[t]);
            share.span = std::max(share.span, share.opened - share.base);
            share.base = std::max(share.base, std::min(settled_[t] - 4, share.opened));
        }
        restart(share);
    }

    runs_.resize(columns_);
    find_runs();
}

// The vertices that there are: those that a pixel touches.
void Spatial::find_runs() {
    exists_.assign(size_t(columns_) * rows_, 0);
    for (size_t p = 0; p < shares_.size(); ++p) {
        const Share &share = shares_[p];
        uint8_t *exists = exists_.data() + size_t(share.first) * rows_;
        const size_t end = order_.tile[order_.part[p + 1]];
        for (size_t i = order_.tile[order_.part[p]]; i < end; ++i)
            for (const int32_t id : points_[i].id) exists[id - share.place * rows_] = 1;
    }
    size_ = 0;
    for (int u = 0; u < columns_; ++u) {
        const uint8_t *begin = exists_.data() + size_t(u) * rows_, *end = begin + rows_, *at = begin;
        runs_[u].clear();
        while ((at = static_cast<const uint8_t *>(std::memchr(at, 1, end - at)))) {
            // An empty row ends every column.
            const uint8_t *after = static_cast<const uint8_t *>(std::memchr(at, 0, end - at));
            runs_[u].push_back({int(at - begin), int(after - begin)});
            size_ += size_t(after - at);
            at = after;
        }
    }
}

// Filters ones, and puts the weights that come out into the barycentric coordinates.
void Spatial::normalise() {
    prepare(1);
    for (size_t p = 0; p < shares_.size(); ++p)
        for (size_t t = order_.part[p]; t < order_.part[p + 1]; ++t) {
            open_tile(int(p), t);
            float *to = splatted(int(p));
            const size_t before = size_t(shares_[p].base - shares_[p].first) + shares_[p].place;
            for (size_t i = order_.tile[t]; i < order_.tile[t + 1]; ++i)
                for (int k = 0; k < 3; ++k)
                    to[points_[i].id[k] - before * rows_] +=
                        points_[i].weight[k] * (order_.count.empty() ? 1.0f : order_.count[i]);
            close_tile(int(p), t);
        }
    finish();
    after_.need(strength_.symmetric ? 0 : order_.size());
    for (size_t i = 0; i < order_.size(); ++i) {
        Vertices<2> &point = points_[i];
        float sum = 0;
        for (int k = 0; k < 3; ++k) sum += point.weight[k] * blurred_[point.id[k]] * kAlpha;
        const float strength = strength_.weight * kAlpha * kLog2E / (sum + 1e-20f);
        if (!strength_.symmetric) after_[i] = strength;
        const float scale = strength_.symmetric ? std::sqrt(strength) : 1.0f;
        for (float &weight : point.weight) weight *= scale;
    }
}

void Spatial::prepare(int lanes) {
    // A sweep that ran out of memory has left the shares where they were.
    for (Share &share : shares_) restart(share);
    if (lanes == lanes_) return;
    if (places_ * rows_ * lanes / 2 > size_t(INT32_MAX))
        throw std::range_error("pos_xy: too small for a picture of this size with so many classes");
    lanes_ = 0;  // until all memory is there
    const size_t column = size_t(rows_) * lanes;
    blurred_.need(places_ * column);
    std::fill_n(nothing_.need(column), column, 0.0f);
    for (Share &share : shares_) {
        share.window.need(share.span * column);
        share.ring.need(column * 4);
        int aside = 0;
        for (int u = share.first; u <= share.last; ++u) aside += shared(share, u);
        share.aside.need(aside * column);
    }
    size_t widest = 0;
    seams([&](int begin, int end) { widest = std::max(widest, size_t(end - begin + 4)); });
    seam_.need(widest * column);
    const int unit = std::max(lanes / 2, 1);
    for (size_t i = 0; i < order_.size(); ++i)
        for (int32_t &id : points_[i].id) id = id / unit_ * unit;
    unit_ = unit;
    lanes_ = lanes;
}

void Spatial::restart(Share &share) const {
    share.base = share.opened = share.saved = share.first;
    share.blurred = share.own_begin;
}

int32_t Spatial::offset(int part) const {
    const Share &share = shares_[part];
    return int32_t((share.place + size_t(share.base - share.first)) * column() / 2);
}

void Spatial::open_tile(int part, size_t tile, bool freezes, bool before) {
    Share &share = shares_[part];
    if (reach_[tile] <= share.opened) return;
    float *const to = share.window.data() + size_t(share.opened - share.base) * column();
    const size_t place = share.place + size_t(share.opened - share.first);
    const size_t bytes = sizeof(float) * size_t(reach_[tile] - share.opened) * column();
    if (before)
        std::memcpy(to, frozen_.data() + place * column(), bytes);
    else
        std::memset(to, 0, bytes);
    if (freezes && !before) std::memset(frozen_.data() + place * column(), 0, bytes);
    share.opened = reach_[tile];
}

void Spatial::close_tile(int part, size_t tile) {
    Share &share = shares_[part];
    const int settled = std::min(settled_[tile], share.opened + 2);
    if (settled - 4 > share.base || tile + 1 == order_.part[part + 1]) advance(share, settled);
}

// Blur what can be, set aside what others need, and move the window on; columns before `settled` are complete.
void Spatial::advance(Share &share, int settled) {
    const size_t size = column();
    for (; share.saved < std::min(settled, share.opened); ++share.saved) {
        if (!shared(share, share.saved)) continue;
        int at = 0;
        for (int u = share.first; u < share.saved; ++u) at += shared(share, u);
        std::memcpy(share.aside.data() + at * size, share.window.data() + (share.saved - share.base) * size,
                    size * sizeof(float));
    }
    const int end = std::min({settled - 2, share.own_end, share.last + 1});
    if (end > share.blurred) {
        blur(
            share.blurred, end,
            [&](int u) -> const float * {
                return u < share.base || u >= share.opened ? nothing_.data()
                                                           : share.window.data() + (u - share.base) * size;
            },
            [&](int u) { return blurred(share, u); }, share.ring);
        share.blurred = end;
    }
    const int base = std::max(share.base, std::min(settled - 4, share.opened));
    std::memmove(share.window.data(), share.window.data() + (base - share.base) * size,
                 (share.opened - base) * size * sizeof(float));
    share.base = base;
}

// Calls `act` with the columns [begin, end) between those that shares blur alone.
template <typename Act>
void Spatial::seams(const Act &act) const {
    int done = 0;
    const auto until = [&](int end) {
        if (done < end) act(done, end);
    };
    for (const Share &share : shares_) {
        const int end = std::min(share.own_end, share.last + 1);
        if (end <= share.own_begin) continue;
        until(share.own_begin);
        done = end;
    }
    until(columns_);
}

void Spatial::finish() {
    seams([this](int begin, int end) { blur_seam(begin, end); });
    for (Share &share : shares_) restart(share);
}

// Columns [begin, end), in which several shares have a part.
void Spatial::blur_seam(int begin, int end) {
    const size_t size = column();
    const int from = std::max(begin - 2, 0), to = std::min(end + 2, columns_);
    std::fill_n(seam_.data(), (to - from) * size, 0.0f);
    for (const Share &share : shares_)
        for (int u = share.first, at = 0; u <= share.last; ++u) {
            if (!shared(share, u)) continue;
            const float *mine = share.aside.data() + size_t(at++) * size;
            float *sum = seam_.data() + size_t(u - from) * size;
            if (u >= from && u < to)
                for (size_t i = 0; i < size; ++i) sum[i] += mine[i];
        }
    const auto owner = [&](int u) -> const Share & {
        for (const Share &share : shares_)
            if (u >= share.first && u <= share.last) return share;
        return shares_[0];
    };
    for (int u = begin; u < end; ++u) {
        const Share &one = owner(u);
        if (u < one.first || u > one.last) continue;  // no pixel is near
        blur(
            u, u + 1,
            [&](int v) -> const float * {
                return v < from || v >= to ? nothing_.data() : seam_.data() + size_t(v - from) * size;
            },
            [&](int v) { return blurred(one, v); }, shares_[0].ring);
        for (const Share &other : shares_)
            if (&other != &one && u >= other.first && u <= other.last)
                std::memcpy(blurred(other, u), blurred(one, u), size * sizeof(float));
    }
}

// Columns [begin, end) along the three axes: two of them lead to the columns beside, the third along.
template <typename In, typename Out>
void Spatial::blur(int begin, int end, const In &in, const Out &out, Buffer<float> &ring) const {
    const size_t size = column();
    const auto once = [&](int u) { return ring.data() + size_t((u + 3) % 3) * size; };
    const auto first_axis = [&](int u) {
        if (u >= 0 && u < columns_)
            blur_column(u, 0, in(u - 1), in(u), in(u + 1), once(u));
        else
            std::memset(once(u), 0, size * sizeof(float));
    };
    float *twice = ring.data() + 3 * size;
    std::memset(twice, 0, size * sizeof(float));
    first_axis(begin - 1);
    first_axis(begin);
    for (int u = begin; u < end; ++u) {
        first_axis(u + 1);
        blur_column(u, 1, once(u - 1), once(u), once(u + 1), twice);
        float *to = out(u);
        for (const Run &run : runs_[u]) {
            const size_t at = size_t(run.begin) * lanes_;
            kernels_.blur_run(twice + at - lanes_, twice + at, twice + at + lanes_, to + at,
                              size_t(run.end - run.begin) * lanes_);
        }
    }
}

// One column along axis 0 or 1; what is no vertex stays zero.
void Spatial::blur_column(int u, int axis, const float *left, const float *middle, const float *right,
                          float *out) const {
    // Rows of the neighbours, relative to this column's: an odd column stands half a row higher.
    const int down = u & 1;
    const ptrdiff_t to_left = ptrdiff_t(axis == 0 ? down - 1 : down) * lanes_;
    const ptrdiff_t to_right = ptrdiff_t(axis == 0 ? down : down - 1) * lanes_;
    size_t done = 0;
    for (const Run &run : runs_[u]) {
        const size_t at = size_t(run.begin) * lanes_;
        std::memset(out + done, 0, (at - done) * sizeof(float));
        kernels_.blur_run(left + at + to_left, middle + at, right + at + to_right, out + at,
                          size_t(run.end - run.begin) * lanes_);
        done = size_t(run.end) * lanes_;
    }
    std::memset(out + done, 0, (size_t(rows_) * lanes_ - done) * sizeof(float));
}

}  // namespace crf
