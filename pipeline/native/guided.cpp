// Labels from the guided filter's coefficients: stretched to the picture, applied to its pixels, and the
// best class kept, among those that the network itself gives nearby.
#include "guided.hpp"

#include <algorithm>
#include <cstring>

#include "dispatch.hpp"
#include "guided_filter.hpp"

namespace guided {
namespace {

// Classes that may be given near each score cell, as bits over the classes that are alive at all.
struct Nearby {
    std::vector<uint8_t> alive;
    int height = 0, width = 0, words = 0;
    std::vector<uint64_t> bits;

    const uint64_t *at(int y, int x) const { return &bits[(size_t(y) * width + x) * words]; }
};

// Spreads bits by `reach` cells along one axis: `count` cells that lie `step` words apart.
void spread(const uint64_t *from, uint64_t *to, int count, ptrdiff_t step, int words, int reach) {
    for (int i = 0; i < count; ++i)
        for (int j = std::max(0, i - reach); j <= std::min(count - 1, i + reach); ++j)
            for (int w = 0; w < words; ++w) to[i * step + w] |= from[j * step + w];
}

Nearby find_nearby(const std::vector<uint8_t> &best, int height, int width, int reach) {
    Nearby near;
    near.height = height;
    near.width = width;
    int slot[256];
    std::fill(slot, slot + 256, -1);
    for (uint8_t label : best) slot[label] = 0;
    for (int c = 0; c < 256; ++c)
        if (slot[c] == 0) {
            slot[c] = int(near.alive.size());
            near.alive.push_back(uint8_t(c));
        }
    near.words = int(near.alive.size() + 63) / 64;
    const int words = near.words;
    std::vector<uint64_t> own(best.size() * words), across(own.size());
    near.bits.assign(own.size(), 0);
    for (size_t i = 0; i < best.size(); ++i) own[i * words + slot[best[i]] / 64] |= uint64_t(1) << (slot[best[i]] % 64);
    for (int y = 0; y < height; ++y) {
        const size_t row = size_t(y) * width * words;
        spread(&own[row], &across[row], width, words, words, reach);
    }
    for (int x = 0; x < width; ++x)
        spread(&across[size_t(x) * words], &near.bits[size_t(x) * words], height, ptrdiff_t(width) * words, words,
               reach);
    return near;
}

// One grid row of mean coefficients, stretched to the picture's width, a plane of `width` floats each.
MULTIVERSION
void stretch_row(const float *row, int record, int planes, const Sample *columns, int width, float *out) {
    for (int x = 0; x < width; ++x) {
        const float *RESTRICT near = row + columns[x].near * record, *RESTRICT far = row + columns[x].far * record;
        const float weight = columns[x].weight;
        for (int i = 0; i < planes; ++i) out[size_t(i) * width + x] = near[i] + (far[i] - near[i]) * weight;
    }
}

struct Rows {  // stretched coefficients above and below a picture row, and its guide, a plane each
    const float *above, *below, *guide;
    float down;
    int width, classes;
};

// The best of some classes in columns [begin, end) of a picture row.
template <int G>
INLINE void pick(const Rows &rows, const int *candidates, int count, const uint8_t *alive, int begin, int end,
                 float *RESTRICT best, uint8_t *RESTRICT out) {
    const float down = rows.down, up = 1 - down;
    for (int n = 0; n < count; ++n) {
        const float *RESTRICT a[G + 1], *RESTRICT b[G + 1];
        for (int g = 0; g <= G; ++g) {
            const size_t plane = size_t(g * rows.classes + candidates[n]) * rows.width;
            a[g] = rows.above + plane;
            b[g] = rows.below + plane;
        }
        const uint8_t label = alive[candidates[n]];
        for (int x = begin; x < end; ++x) {
            float value = a[G][x] * up + b[G][x] * down;
            for (int g = 0; g < G; ++g) value += (a[g][x] * up + b[g][x] * down) * rows.guide[g * rows.width + x];
            const bool wins = n == 0 || value > best[x];
            best[x] = wins ? value : best[x];
            out[x] = wins ? label : out[x];
        }
    }
}

MULTIVERSION
void pick_grey(const Rows &rows, const int *candidates, int count, const uint8_t *alive, int begin, int end,
               float *best, uint8_t *out) {
    pick<1>(rows, candidates, count, alive, begin, end, best, out);
}

MULTIVERSION
void pick_colour(const Rows &rows, const int *candidates, int count, const uint8_t *alive, int begin, int end,
                 float *best, uint8_t *out) {
    pick<3>(rows, candidates, count, alive, begin, end, best, out);
}

MULTIVERSION
void split_guide(const uint8_t *in, int width, int channels, float *out) {
    for (int g = 0; g < channels; ++g)
        for (int x = 0; x < width; ++x) out[g * width + x] = float(in[x * channels + g]) * (1.0f / 255.0f);
}

}  // namespace

bool labels(const Guide &guide, const upsample::Scores &scores, upsample::Map my, upsample::Map mx,
            const Options &options, uint8_t *out, ptrdiff_t stride, Memory &memory) {
    std::vector<uint8_t> best(size_t(scores.height) * scores.width);
    if (!upsample::winners(scores, best.data())) return false;
    const Nearby near = find_nearby(best, scores.height, scores.width, options.reach);
    if (near.alive.size() == 1) {
        for (int y = 0; y < guide.height; ++y) std::memset(out + y * stride, near.alive[0], guide.width);
        return true;
    }
    const Axis ys(my, guide.height, scores.height, options.per_cell_y);
    const Axis xs(mx, guide.width, scores.width, options.per_cell_x);
    const Grid grid(ys, xs, guide.channels, int(near.alive.size()));
    const float *means =
        coefficients(guide, scores, near.alive, ys, xs, grid, options.radius, options.epsilon, memory);

    const int width = guide.width, planes = (grid.channels + 1) * grid.classes;
    std::vector<float> stretched(2 * size_t(planes) * width), levels(size_t(guide.channels) * width), value(width);
    float *above = stretched.data(), *below = above + size_t(planes) * width;
    int above_row = -1, below_row = -1;
    std::vector<int> candidates;
    for (int y = 0; y < guide.height; ++y) {
        const Sample at = ys.at[y];
        if (above_row != at.near) {
            std::swap(above, below);
            std::swap(above_row, below_row);
        }
        const auto stretch = [&](int row, float *to, int &known) {
            if (known != row)
                stretch_row(means + size_t(row) * grid.width * grid.means, grid.means, planes, xs.at.data(), width, to);
            known = row;
        };
        stretch(at.near, above, above_row);
        if (at.far != at.near) stretch(at.far, below, below_row);
        split_guide(guide.data + y * guide.stride, width, guide.channels, levels.data());
        const Rows rows{above, at.far != at.near ? below : above, levels.data(), at.weight, width, grid.classes};
        uint8_t *line = out + y * stride;
        for (int begin = 0, end; begin < width; begin = end) {  // runs of columns with the same candidates
            const uint64_t *bits = near.at(ys.cell[y], xs.cell[begin]);
            for (end = begin + 1; end < width; ++end) {
                if (xs.cell[end] == xs.cell[end - 1]) continue;
                if (!std::equal(bits, bits + near.words, near.at(ys.cell[y], xs.cell[end]))) break;
            }
            candidates.clear();
            for (int k = 0; k < grid.classes; ++k)
                if (bits[k / 64] >> (k % 64) & 1) candidates.push_back(k);
            if (candidates.size() == 1)
                std::memset(line + begin, near.alive[candidates[0]], end - begin);
            else
                (guide.channels == 1 ? pick_grey : pick_colour)(rows, candidates.data(), int(candidates.size()),
                                                                near.alive.data(), begin, end, value.data(), line);
        }
    }
    return true;
}

}  // namespace guided
