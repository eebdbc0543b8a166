// How it avoids the work: a class that is best at all four corners of a score cell is best everywhere
// inside it, because every pixel there is a mean of the corners with weights that are not negative.
// Such cells (nearly all) are filled.  In the others, a class that lies below one of the corners'
// winners at all four corners can win nowhere inside, for the same reason; only what remains (two or
// three classes) is interpolated.  Ties go to the lowest class, as numpy's argmax gives them.
//
// Where a pixel may keep the label that it had before, a cell is filled only if all its pixels had that label, too, and a
// class is left out only if it lies below by more than the margin can be; one that is equal may be what is kept.
#include "upsample.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dispatch.hpp"

namespace upsample {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kLimit = 0x7e800000u;  // 2^126: differences of two scores stay finite
constexpr int kBlock = 64;                // score cells whose best class is found together

struct Axis {
    std::vector<int> start;     // first pixel of each cell, and one past the last
    std::vector<float> weight;  // of the cell's far corner, a pixel each
    std::vector<int> cell;      // of each pixel
    int cells;
};

Axis make_axis(Map map, int pixels, int scores) {
    Axis axis;
    axis.cells = std::max(1, scores - 1);
    axis.start.assign(axis.cells + 1, 0);
    axis.weight.resize(pixels);
    axis.cell.resize(pixels);
    for (int i = 0; i < pixels; ++i) {
        const double at = std::min(std::max(map.scale * i + map.offset, 0.0), double(scores - 1));
        const int cell = std::min(int(at), axis.cells - 1);
        axis.weight[i] = float(at - cell);
        axis.cell[i] = cell;
        ++axis.start[cell + 1];
    }
    for (int k = 0; k < axis.cells; ++k) axis.start[k + 1] += axis.start[k];
    return axis;
}

// Best class of `n` ≤ kBlock neighbouring scores; classes lie `step` floats apart.
INLINE uint32_t best_of_block(const float *RESTRICT scores, int classes, int64_t step, int n, uint8_t *RESTRICT out) {
    float best[kBlock];
    int32_t index[kBlock];
    uint32_t largest = 0;
    for (int i = 0; i < n; ++i) {
        best[i] = scores[i];
        index[i] = 0;
        uint32_t bits;
        std::memcpy(&bits, scores + i, 4);
        largest = std::max(largest, bits & kMagnitude);
    }
    for (int c = 1; c < classes; ++c) {
        const float *RESTRICT row = scores + c * step;
        for (int i = 0; i < n; ++i) {
            const float value = row[i];
            const bool better = value > best[i];
            best[i] = better ? value : best[i];
            index[i] = better ? c : index[i];
            uint32_t bits;
            std::memcpy(&bits, row + i, 4);
            largest = std::max(largest, bits & kMagnitude);
        }
    }
    for (int i = 0; i < n; ++i) out[i] = uint8_t(index[i]);
    return largest;
}

MULTIVERSION
uint32_t best_of_row(const float *scores, int classes, int64_t step, int width, uint8_t *out) {
    uint32_t largest = 0;
    int x = 0;
    for (; x + kBlock <= width; x += kBlock)
        largest = std::max(largest, best_of_block(scores + x, classes, step, kBlock, out + x));
    if (x < width) largest = std::max(largest, best_of_block(scores + x, classes, step, width - x, out + x));
    return largest;
}

struct Cell {  // the classes that may win in one cell, with their scores at its corners
    int n = 0;
    uint8_t label[256];
    float corner[256][4];  // top left, top right, bottom left, bottom right
};

// Those that lie below a corner's winner by more than `margin` at all corners are left out; unless `holds`, so are equal
// ones of a higher number.
void find_candidates(const float *top, const float *bottom, int right, int classes, int64_t step,
                     const uint8_t (&best)[4], bool holds, float margin, Cell &cell) {
    uint8_t rival[4];
    float strong[4][4];
    int rivals = 0;
    for (uint8_t c : best) {
        if (std::find(rival, rival + rivals, c) != rival + rivals) continue;
        const float values[4] = {top[c * step], top[c * step + right], bottom[c * step], bottom[c * step + right]};
        std::copy(values, values + 4, strong[rivals]);
        rival[rivals++] = c;
    }
    cell.n = 0;
    for (int c = 0; c < classes; ++c) {
        const float v[4] = {top[c * step], top[c * step + right], bottom[c * step], bottom[c * step + right]};
        bool beaten = false;
        for (int r = 0; r < rivals; ++r) {
            const float s[4] = {strong[r][0] - margin, strong[r][1] - margin, strong[r][2] - margin,
                                strong[r][3] - margin};
            beaten |= rival[r] < c && !holds
                          ? (s[0] >= v[0]) & (s[1] >= v[1]) & (s[2] >= v[2]) & (s[3] >= v[3])
                          : (s[0] > v[0]) & (s[1] > v[1]) & (s[2] > v[2]) & (s[3] > v[3]);
        }
        if (beaten) continue;
        cell.label[cell.n] = uint8_t(c);
        std::copy(v, v + 4, cell.corner[cell.n++]);
    }
}

struct Row {  // the candidates' scores at the left and right end of a picture row inside one cell
    int n;
    float left[256], right[256];

    Row(const Cell &cell, float down) : n(cell.n) {
        const float up = 1.0f - down;
        for (int k = 0; k < n; ++k) {
            const auto &v = cell.corner[k];
            left[k] = v[0] * up + v[2] * down;
            right[k] = v[1] * up + v[3] * down;
        }
    }

    float at(int candidate, float across) const { return left[candidate] * (1.0f - across) + right[candidate] * across; }

    int winner(float across, float &best) const {
        int found = 0;
        best = at(0, across);
        for (int k = 1; k < n; ++k) {
            const float value = at(k, across);
            found = value > best ? k : found;
            best = value > best ? value : best;
        }
        return found;
    }
};

// One picture row inside one cell.
void paint(const Cell &cell, float down, const float *across, int pixels, uint8_t *out, int64_t *counts) {
    if (cell.n == 2) {
        const float up = 1.0f - down;
        const auto &a = cell.corner[0], &b = cell.corner[1];
        const float left = (a[0] - b[0]) * up + (a[2] - b[2]) * down;
        const float right = (a[1] - b[1]) * up + (a[3] - b[3]) * down;
        int second = 0;
        for (int i = 0; i < pixels; ++i) {
            const bool lost = left * (1.0f - across[i]) + right * across[i] < 0.0f;
            out[i] = cell.label[lost];
            second += lost;
        }
        counts[cell.label[0]] += pixels - second;
        counts[cell.label[1]] += second;
        return;
    }
    const Row row(cell, down);
    for (int i = 0; i < pixels; ++i) {
        float best;
        const uint8_t label = cell.label[row.winner(across[i], best)];
        out[i] = label;
        ++counts[label];
    }
}

struct Corners {  // of one score cell, in a plane of scores
    const float *top, *bottom;
    int right;

    float at(int64_t from, float across, float down) const {
        const float left = top[from] * (1.0f - down) + bottom[from] * down;
        const float other = top[from + right] * (1.0f - down) + bottom[from + right] * down;
        return left * (1.0f - across) + other * across;
    }

    float most() const { return std::max(std::max(top[0], top[right]), std::max(bottom[0], bottom[right])); }
};

// As `paint`, but a pixel keeps the label that it had before unless another class lies above it by more than the margin.
void repaint(const Cell &cell, float down, const float *across, int pixels, const uint8_t *before,
             const Corners &margin, const Corners *ahead, int64_t step, uint8_t *out, int64_t *counts) {
    const Row row(cell, down);
    int16_t place[256];  // of each class among the candidates
    std::fill(place, place + 256, int16_t(-1));
    for (int k = 0; k < cell.n; ++k) place[cell.label[k]] = int16_t(k);
    for (int i = 0; i < pixels; ++i) {
        float best;
        int winner = row.winner(across[i], best);
        const int kept = place[before[i]];
        if (kept >= 0 && kept != winner) {
            const float usual = margin.at(0, across[i], down);
            float lead = best - row.at(kept, across[i]);
            if (ahead) {
                const float next = ahead->at(cell.label[winner] * step, across[i], down) -
                                   ahead->at(before[i] * step, across[i], down);
                lead += std::min(std::max(next, -usual), usual);
            }
            if (lead <= usual) winner = kept;
        }
        out[i] = cell.label[winner];
        ++counts[cell.label[winner]];
    }
}

bool filled(const uint8_t *labels, int64_t stride, int rows, int pixels, uint8_t label) {
    for (int y = 0; y < rows; ++y)
        for (int x = 0; x < pixels; ++x)
            if (labels[y * stride + x] != label) return false;
    return true;
}

}  // namespace

bool argmax(const Scores &scores, Map my, Map mx, int begin, int end, int width, uint8_t *out, int64_t stride,
            int64_t *counts, const Before *before) {
    const Axis x = make_axis(mx, width, scores.width);
    const Axis y = make_axis({my.scale, my.offset + my.scale * begin}, end - begin, scores.height);
    const int64_t step = int64_t(scores.height) * scores.width;
    const int right = scores.width > 1 ? 1 : 0;

    std::vector<uint8_t> upper(scores.width), lower(scores.width);
    std::vector<int> mixed;  // cells of this row whose corners disagree
    Cell candidates;
    int known = -1;  // the score row whose best classes are in `lower`
    for (int row = 0; row < end - begin;) {
        const int cell_y = y.cell[row], rows = y.start[cell_y + 1] - row;
        const int below = std::min(cell_y + 1, scores.height - 1);
        const float *top = scores.data + int64_t(cell_y) * scores.width;
        const float *bottom = scores.data + int64_t(below) * scores.width;
        if (known == cell_y)
            upper.swap(lower);
        else if (best_of_row(top, scores.classes, step, scores.width, upper.data()) >= kLimit)
            return false;
        if (below == cell_y)
            lower = upper;
        else if (best_of_row(bottom, scores.classes, step, scores.width, lower.data()) >= kLimit)
            return false;
        known = below;

        uint8_t *first = out + row * stride;
        mixed.clear();
        for (int k = 0; k < x.cells; ++k) {
            const int pixels = x.start[k + 1] - x.start[k];
            if (pixels == 0) continue;
            const uint8_t label = upper[k];
            const bool agreed = label == upper[k + right] && label == lower[k] && label == lower[k + right];
            if (!agreed || (before && !filled(before->labels + row * before->stride + x.start[k], before->stride, rows,
                                              pixels, label))) {
                mixed.push_back(k);
                continue;
            }
            std::memset(first + x.start[k], label, pixels);
            counts[label] += int64_t(pixels) * rows;
        }
        for (int i = 1; i < rows; ++i) std::memcpy(first + i * stride, first, width);
        for (int k : mixed) {
            const uint8_t best[4] = {upper[k], upper[k + right], lower[k], lower[k + right]};
            const auto corners = [&](const float *plane) {
                return Corners{plane + (top - scores.data) + k, plane + (bottom - scores.data) + k, right};
            };
            Corners margin{}, ahead{};
            float reach = 0.0f;
            if (before) {
                margin = corners(before->margin);
                reach = margin.most();
                if (before->ahead) {
                    ahead = corners(before->ahead);
                    reach *= 2;
                }
            }
            find_candidates(top + k, bottom + k, right, scores.classes, step, best, before != nullptr, reach,
                            candidates);
            const float *across = x.weight.data() + x.start[k];
            const int pixels = x.start[k + 1] - x.start[k];
            for (int i = 0; i < rows; ++i) {
                uint8_t *to = first + i * stride + x.start[k];
                if (before)
                    repaint(candidates, y.weight[row + i], across, pixels,
                            before->labels + (row + i) * before->stride + x.start[k], margin,
                            before->ahead ? &ahead : nullptr, step, to, counts);
                else
                    paint(candidates, y.weight[row + i], across, pixels, to, counts);
            }
        }
        row += rows;
    }
    return true;
}

bool winners(const Scores &scores, uint8_t *out) {
    const int64_t step = int64_t(scores.height) * scores.width;
    uint32_t largest = 0;
    for (int64_t y = 0; y < scores.height; ++y)
        largest = std::max(largest, best_of_row(scores.data + y * scores.width, scores.classes, step, scores.width,
                                                out + y * scores.width));
    return largest < kLimit;
}

void count(const uint8_t *labels, int64_t stride, int height, int width, int64_t *counts) {
    // Four tables: neighbours mostly share a label, and one counter would wait for itself.
    std::vector<int64_t> tables(4 * 256);
    for (int y = 0; y < height; ++y) {
        const uint8_t *row = labels + y * stride;
        for (int x = 0; x < width; ++x) ++tables[(x & 3) * 256 + row[x]];
    }
    for (int i = 0; i < 4 * 256; ++i) counts[i & 255] += tables[i];
}

}  // namespace upsample
