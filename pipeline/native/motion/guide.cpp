#include "guide.hpp"

#include <algorithm>
#include <cmath>

#include "../dispatch.hpp"

namespace motion {
namespace {

struct Share {  // what a pixel covers along an axis: whole samples begin … end - 1, parts of those around them
    int begin, end;
    float before, after;
};

std::vector<Share> shares(int from, int to) {
    std::vector<Share> all(to);
    for (int i = 0; i < to; ++i) {
        const double low = double(from) * i / to, high = double(from) * (i + 1) / to;
        const int begin = std::min(from, int(std::ceil(low - 1e-9))), end = std::min(from, int(high + 1e-9));
        if (end < begin)  // inside one sample
            all[i] = {end, end, 0.0f, float(high - low)};
        else
            all[i] = {begin, end, float(std::max(0.0, begin - low)), float(std::max(0.0, high - end))};
    }
    return all;
}

template <typename T>
INLINE void add_row(const T *RESTRICT from, float weight, float *RESTRICT to, int n) {
    for (int i = 0; i < n; ++i) to[i] += weight * float(from[i]);
}

template <typename T>
INLINE void shrink(const T *plane, ptrdiff_t stride, int rows, int columns, float scale, Level &to) {
    const auto down = shares(rows, to.height), across = shares(columns, to.width);
    std::vector<float> line(columns);
    for (int y = 0; y < to.height; ++y) {
        const Share &v = down[y];
        std::fill(line.begin(), line.end(), 0.0f);
        if (v.before > 0) add_row(plane + (v.begin - 1) * stride, v.before, line.data(), columns);
        for (int k = v.begin; k < v.end; ++k) add_row(plane + k * stride, 1.0f, line.data(), columns);
        if (v.after > 0) add_row(plane + std::min(v.end, rows - 1) * stride, v.after, line.data(), columns);
        float *out = to.image.data() + (y + kBorder) * to.stride + kBorder;
        for (int x = 0; x < to.width; ++x) {
            const Share &h = across[x];
            float sum = h.before > 0 ? h.before * line[h.begin - 1] : 0.0f;
            for (int k = h.begin; k < h.end; ++k) sum += line[k];
            if (h.after > 0) sum += h.after * line[std::min(h.end, columns - 1)];
            out[x] = sum * scale;
        }
    }
}

MULTIVERSION
void shrink8(const uint8_t *plane, ptrdiff_t stride, int rows, int columns, float scale, Level &to) {
    shrink(plane, stride, rows, columns, scale, to);
}

MULTIVERSION
void shrink16(const uint16_t *plane, ptrdiff_t stride, int rows, int columns, float scale, Level &to) {
    shrink(plane, stride, rows, columns, scale, to);
}

void run(const uint8_t *plane, ptrdiff_t stride, int rows, int columns, float scale, Level &to) {
    shrink8(plane, stride, rows, columns, scale, to);
}

void run(const uint16_t *plane, ptrdiff_t stride, int rows, int columns, float scale, Level &to) {
    shrink16(plane, stride, rows, columns, scale, to);
}

MULTIVERSION
void halve(const Level &from, Level &to) {
    for (int y = 0; y < to.height; ++y) {
        const float *RESTRICT a = from.at(2 * y, 0), *RESTRICT b = from.at(2 * y + 1, 0);
        float *RESTRICT out = to.image.data() + (y + kBorder) * to.stride + kBorder;
        for (int x = 0; x < to.width; ++x) out[x] = 0.25f * (a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1]);
    }
}

Level empty_level(int height, int width) {
    Level level{height, width, width + 2 * kBorder, {}, {}, {}};
    level.image.resize(level.stride * (height + 2 * kBorder));
    return level;
}

void repeat_edges(Level &level) {
    for (int y = 0; y < level.height; ++y) {
        float *row = level.image.data() + (y + kBorder) * level.stride;
        std::fill(row, row + kBorder, row[kBorder]);
        std::fill(row + kBorder + level.width, row + level.stride, row[kBorder + level.width - 1]);
    }
    const float *first = level.at(0, -kBorder), *last = level.at(level.height - 1, -kBorder);
    for (int y = 0; y < kBorder; ++y) {
        std::copy(first, first + level.stride, level.image.data() + y * level.stride);
        std::copy(last, last + level.stride, level.image.data() + (kBorder + level.height + y) * level.stride);
    }
}

MULTIVERSION
void differentiate(Level &level) {
    level.dx.resize(size_t(level.height) * level.width);
    level.dy.resize(size_t(level.height) * level.width);
    for (int y = 0; y < level.height; ++y) {
        const float *RESTRICT row = level.at(y, 0), *RESTRICT above = level.at(y - 1, 0);
        const float *RESTRICT below = level.at(y + 1, 0), *RESTRICT left = row - 1, *RESTRICT right = row + 1;
        float *RESTRICT dx = level.dx.data() + size_t(y) * level.width;
        float *RESTRICT dy = level.dy.data() + size_t(y) * level.width;
        for (int x = 0; x < level.width; ++x) {
            dx[x] = 0.5f * (right[x] - left[x]);
            dy[x] = 0.5f * (below[x] - above[x]);
        }
    }
}

void finish(Level &level) {
    repeat_edges(level);
    differentiate(level);
}

}  // namespace

template <typename T>
Guide make_guide(const T *plane, ptrdiff_t stride, int rows, int columns, int depth, int height, int width) {
    Guide guide;
    guide.levels.push_back(empty_level(height, width));
    const double area = double(rows) / height * columns / width;
    run(plane, stride, rows, columns, float(1.0 / (area * (1 << (depth - 8)))), guide.levels[0]);
    finish(guide.levels[0]);
    while (std::min(guide.levels.back().height, guide.levels.back().width) / 2 >= kSmallest) {
        const Level &finer = guide.levels.back();
        Level level = empty_level(finer.height / 2, finer.width / 2);
        halve(finer, level);
        finish(level);
        guide.levels.push_back(std::move(level));
    }
    return guide;
}

template Guide make_guide(const uint8_t *, ptrdiff_t, int, int, int, int, int);
template Guide make_guide(const uint16_t *, ptrdiff_t, int, int, int, int, int);

}  // namespace motion
