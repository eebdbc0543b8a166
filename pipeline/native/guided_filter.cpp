// K. He, J. Sun, X. Tang: Guided Image Filtering, TPAMI 2013 (equations 14 to 16, 19 to 21), its
// coefficients on a coarse grid as in K. He, J. Sun: Fast Guided Filter, 2015 (arXiv 1505.00996).
//
// All that a square needs lies together (guide, its products, each class's probability and its
// products with the guide), so that box filters and solves run over contiguous floats.
#include "guided_filter.hpp"

#include <cstring>
#include <limits>

#include "dispatch.hpp"

namespace guided {
namespace {

// exp for arguments ≤ 0, to 1e-6: a polynomial for the fraction and the exponent by its bits, so that
// loops of it become vector code everywhere.
INLINE float exp_of(float x) {
    x = std::max(x * 1.44269504f, -120.0f);
    const float whole = float(int(x - 0.5f)), part = x - whole;
    float p = 1.3333558e-3f;
    p = p * part + 9.6181291e-3f;
    p = p * part + 5.5504109e-2f;
    p = p * part + 2.4022651e-1f;
    p = p * part + 6.9314718e-1f;
    p = p * part + 1.0f;
    const int32_t bits = (int32_t(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

// Means of the guide (levels 0–1) over the squares of one grid row: `out[x * record + channel]`.
MULTIVERSION
void shrink_row(const Guide &guide, const Axis &ys, const Axis &xs, int row, uint32_t *sums, float *out, int record) {
    const int top = ys.start[row], bottom = ys.start[row + 1], line = guide.width * guide.channels;
    std::fill(sums, sums + line, 0u);
    for (int y = top; y < bottom; ++y) {
        const uint8_t *RESTRICT in = guide.data + y * guide.stride;
        uint32_t *RESTRICT to = sums;
        for (int i = 0; i < line; ++i) to[i] += in[i];
    }
    for (int x = 0; x < xs.squares(); ++x) {
        const int left = xs.start[x], right = xs.start[x + 1];
        const float scale = 1.0f / (255.0f * float(std::max(1, (bottom - top) * (right - left))));
        for (int g = 0; g < guide.channels; ++g) {
            uint32_t sum = 0;
            for (int i = left; i < right; ++i) sum += sums[i * guide.channels + g];
            out[x * record + g] = float(sum) * scale;
        }
    }
}

// Probabilities of the living classes at the squares of one grid row, from interpolated scores.
MULTIVERSION
void probability_row(const float *const *top, const float *const *bottom, float down, const Sample *columns, int width,
                     int classes, float *out, int record) {
    for (int x = 0; x < width; ++x) {
        const Sample at = columns[x];
        float *RESTRICT p = out + size_t(x) * record;
        float most = -std::numeric_limits<float>::infinity(), sum = 0;
        for (int k = 0; k < classes; ++k) {
            const float left = top[k][at.near] * (1 - down) + bottom[k][at.near] * down;
            const float right = top[k][at.far] * (1 - down) + bottom[k][at.far] * down;
            p[k] = left * (1 - at.weight) + right * at.weight;
            most = std::max(most, p[k]);
        }
        for (int k = 0; k < classes; ++k) {
            p[k] = exp_of(p[k] - most);
            sum += p[k];
        }
        const float scale = 1 / sum;
        for (int k = 0; k < classes; ++k) p[k] *= scale;
    }
}

// Record of a square: G guide values, G(G+1)/2 products of theirs, K probabilities, G × K products.
template <int G>
INLINE void multiply_row(float *row, const Grid &grid) {
    constexpr int pairs = G * (G + 1) / 2;
    for (int x = 0; x < grid.width; ++x) {
        float *RESTRICT record = row + size_t(x) * grid.moments;
        int n = G;
        for (int g = 0; g < G; ++g)
            for (int f = g; f < G; ++f) record[n++] = record[g] * record[f];
        const float *p = record + G + pairs;
        float *RESTRICT product = record + G + pairs + grid.classes;
        for (int g = 0; g < G; ++g)
            for (int k = 0; k < grid.classes; ++k) product[g * grid.classes + k] = record[g] * p[k];
        std::fill(product + G * grid.classes, record + grid.moments, 0.0f);
    }
}

// Means over (2 · radius + 1)² squares, fewer at the border: O(1) a square whatever the radius.
MULTIVERSION
void box_filter(const float *from, float *to, int height, int width, int record, int radius, float *column) {
    const int line = width * record;
    std::fill(column, column + line, 0.0f);
    for (int y = -radius; y < height; ++y) {
        float *RESTRICT sums = column;
        if (y + radius < height) {
            const float *RESTRICT enters = from + size_t(y + radius) * line;
            for (int i = 0; i < line; ++i) sums[i] += enters[i];
        }
        if (y < 0) continue;
        if (y > radius) {
            const float *RESTRICT leaves = from + size_t(y - radius - 1) * line;
            for (int i = 0; i < line; ++i) sums[i] -= leaves[i];
        }
        const int rows = std::min(y + radius, height - 1) - std::max(y - radius, 0) + 1;
        float *RESTRICT running = column + line;
        std::fill(running, running + record, 0.0f);
        for (int x = -radius; x < width; ++x) {
            if (x + radius < width)
                for (int i = 0; i < record; ++i) running[i] += sums[(x + radius) * record + i];
            if (x < 0) continue;
            if (x > radius)
                for (int i = 0; i < record; ++i) running[i] -= sums[(x - radius - 1) * record + i];
            const int columns = std::min(x + radius, width - 1) - std::max(x - radius, 0) + 1;
            const float scale = 1.0f / float(rows * columns);
            float *RESTRICT out = to + (size_t(y) * width + x) * record;
            for (int i = 0; i < record; ++i) out[i] = running[i] * scale;
        }
    }
}

// Coefficients of a square from its means: a = (Σ + ε)⁻¹ cov(I, p), b = mean(p) − a · mean(I).
INLINE void solve_grey(const float *RESTRICT m, float *RESTRICT out, int classes, float epsilon) {
    const float scale = 1 / (std::max(m[1] - m[0] * m[0], 0.0f) + epsilon);
    const float *p = m + 2, *ip = p + classes;
    for (int k = 0; k < classes; ++k) {
        const float a = (ip[k] - m[0] * p[k]) * scale;
        out[k] = a;
        out[classes + k] = p[k] - a * m[0];
    }
}

INLINE void solve_colour(const float *RESTRICT m, float *RESTRICT out, int classes, float epsilon) {
    const float r = m[0], g = m[1], b = m[2];
    const float rr = m[3] - r * r + epsilon, rg = m[4] - r * g, rb = m[5] - r * b;
    const float gg = m[6] - g * g + epsilon, gb = m[7] - g * b, bb = m[8] - b * b + epsilon;
    const float i00 = gg * bb - gb * gb, i01 = gb * rb - rg * bb, i02 = rg * gb - gg * rb;
    const float i11 = rr * bb - rb * rb, i12 = rb * rg - rr * gb, i22 = rr * gg - rg * rg;
    // At least ε³ in exact arithmetic.
    const float scale = 1 / std::max(rr * i00 + rg * i01 + rb * i02, epsilon * epsilon * epsilon);
    const float *p = m + 9, *rp = p + classes, *gp = rp + classes, *bp = gp + classes;
    for (int k = 0; k < classes; ++k) {
        const float cr = rp[k] - r * p[k], cg = gp[k] - g * p[k], cb = bp[k] - b * p[k];
        const float ar = (i00 * cr + i01 * cg + i02 * cb) * scale;
        const float ag = (i01 * cr + i11 * cg + i12 * cb) * scale;
        const float ab = (i02 * cr + i12 * cg + i22 * cb) * scale;
        out[k] = ar;
        out[classes + k] = ag;
        out[2 * classes + k] = ab;
        out[3 * classes + k] = p[k] - ar * r - ag * g - ab * b;
    }
}

MULTIVERSION
void solve_all(const float *moments, float *out, const Grid &grid, float epsilon) {
    for (size_t i = 0; i < grid.squares(); ++i, moments += grid.moments, out += grid.means) {
        if (grid.channels == 1)
            solve_grey(moments, out, grid.classes, epsilon);
        else
            solve_colour(moments, out, grid.classes, epsilon);
        std::fill(out + (grid.channels + 1) * grid.classes, out + grid.means, 0.0f);
    }
}

}  // namespace

const float *coefficients(const Guide &guide, const upsample::Scores &scores, const std::vector<uint8_t> &alive,
                          const Axis &ys, const Axis &xs, const Grid &grid, int radius, float epsilon,
                          Memory &memory) {
    const size_t records = grid.squares() * grid.moments;
    memory.resize(std::max(memory.size(), 2 * records + size_t(grid.width + 1) * grid.moments));
    float *raw = memory.data(), *mean = raw + records, *column = mean + records;
    std::vector<const float *> top(grid.classes), bottom(grid.classes);
    std::vector<uint32_t> sums(size_t(guide.width) * guide.channels);
    const int first = grid.channels + grid.channels * (grid.channels + 1) / 2;
    for (int y = 0; y < grid.height; ++y) {
        const Sample at = ys.score[y];
        for (int k = 0; k < grid.classes; ++k) {
            const float *plane = scores.data + int64_t(alive[k]) * scores.height * scores.width;
            top[k] = plane + int64_t(at.near) * scores.width;
            bottom[k] = plane + int64_t(at.far) * scores.width;
        }
        float *row = raw + size_t(y) * grid.width * grid.moments;
        shrink_row(guide, ys, xs, y, sums.data(), row, grid.moments);
        probability_row(top.data(), bottom.data(), at.weight, xs.score.data(), grid.width, grid.classes, row + first,
                        grid.moments);
        grid.channels == 1 ? multiply_row<1>(row, grid) : multiply_row<3>(row, grid);
    }
    box_filter(raw, mean, grid.height, grid.width, grid.moments, radius, column);
    solve_all(mean, raw, grid, epsilon);
    box_filter(raw, mean, grid.height, grid.width, grid.means, radius, column);
    return mean;
}

}  // namespace guided
