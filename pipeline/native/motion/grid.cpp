#include "grid.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../dispatch.hpp"
#include "flow.hpp"

namespace motion {
namespace {

// Trust falls to 1/e where what is matched differs by so many levels, and more where the picture is steep: half a
// pixel astray explains that.
constexpr float kLevels = 8.0f, kSteep = 0.5f;
// The same of the way there and back: in squared pixels of the guide, and what a squared pixel of motion adds.
constexpr float kReturn = 2.0f, kSpeed = 0.01f;
// What frames seen still count for once their scores have moved, for each move blurs them; and motion, in cells,
// below which they have hardly done so.
constexpr float kMoved = 0.75f, kStill = 0.1f;
// Of cubic convolution: exact to the third order where scores are moved again with every frame; sharper, and better for
// what is thin, where they are moved but once.
constexpr float kExact = -0.5f, kSharp = -0.75f;
// Trust that every cell has at least where scores come from both sides.
constexpr float kDoubt = 1e-3f;
constexpr int kLanes = 8;       // classes that are mixed together

struct Between {  // two neighbours of an axis
    int near, far;
    float weight;  // of the far one
};

// Within an axis; what is no number lies at its beginning.
INLINE float inside(float at, int count) { return at > 0 ? std::min(at, float(count - 1)) : 0.0f; }

INLINE Between between(float at, int count) {
    at = inside(at, count);
    const int near = std::min(int(at), std::max(0, count - 2));
    return {near, std::min(near + 1, count - 1), at - float(near)};
}

struct Bilinear {
    size_t place[4];
    float weight[4];
    INLINE Bilinear(float y, float x, int height, int width) {
        const Between v = between(y, height), h = between(x, width);
        place[0] = size_t(v.near) * width + h.near;
        place[1] = size_t(v.near) * width + h.far;
        place[2] = size_t(v.far) * width + h.near;
        place[3] = size_t(v.far) * width + h.far;
        weight[0] = (1 - v.weight) * (1 - h.weight);
        weight[1] = (1 - v.weight) * h.weight;
        weight[2] = v.weight * (1 - h.weight);
        weight[3] = v.weight * h.weight;
    }
    INLINE float of(const float *plane, size_t step = 1, size_t part = 0) const {
        float sum = 0;
        for (int i = 0; i < 4; ++i) sum += weight[i] * plane[place[i] * step + part];
        return sum;
    }
};

// R. Keys, "Cubic convolution interpolation for digital image processing", 1981, with his free parameter: scores stay
// much sharper than by bilinear interpolation.
struct Cubic {
    int place[4];
    float weight[4];
    INLINE Cubic(float at, int count, float a) {
        at = inside(at, count);
        const int near = int(at);
        const float t = at - float(near), s = 1 - t;
        weight[0] = a * t * s * s;
        weight[1] = 1 + t * t * ((a + 2) * t - (a + 3));
        weight[2] = 1 + s * s * ((a + 2) * s - (a + 3));
        weight[3] = a * s * t * t;
        for (int i = 0; i < 4; ++i) place[i] = std::min(std::max(near + i - 1, 0), count - 1);
    }
};

// Scores with the classes of a cell side by side, in whole registers.
struct Cells {
    int height, width, lanes;
    std::vector<float> data;

    explicit Cells(const upsample::Scores &from)
        : height(from.height), width(from.width), lanes((from.classes + kLanes - 1) / kLanes * kLanes) {
        const size_t cells = size_t(height) * width;
        data.assign(cells * lanes, 0.0f);
        for (int c = 0; c < from.classes; ++c)
            for (size_t i = 0; i < cells; ++i) data[i * lanes + c] = from.data[c * cells + i];
    }

    // Scores between cells, all lanes.
    INLINE void at(float y, float x, float a, float *RESTRICT out) const {
        const Cubic v(y, height, a), h(x, width, a);
        for (int lane = 0; lane < lanes; lane += kLanes) {
            float sum[kLanes] = {};
            for (int j = 0; j < 4; ++j) {
                const float *row = data.data() + size_t(v.place[j]) * width * lanes + lane;
                for (int i = 0; i < 4; ++i) {
                    const float weight = v.weight[j] * h.weight[i];
                    const float *RESTRICT cell = row + size_t(h.place[i]) * lanes;
                    for (int k = 0; k < kLanes; ++k) sum[k] += weight * cell[k];
                }
            }
            for (int k = 0; k < kLanes; ++k) out[lane + k] = sum[k];
        }
    }
};

}  // namespace

namespace {

// A level as the motion of a grid sees it.
struct Side {
    const Field &field;   // from it to the other picture
    const Level &level;   // the picture itself, of the field's size
    float scale_y, scale_x;  // pixels of the guide a pixel of the field
    Side(const Field &field, const Guide &guide, int finest)
        : field(field), level(guide.levels[std::min(finest, int(guide.levels.size()) - 1)]),
          scale_y(float(guide.height()) / field.height), scale_x(float(guide.width()) / field.width) {}
    INLINE Bilinear at(float y, float x) const {
        return Bilinear((y + 0.5f) / scale_y - 0.5f, (x + 0.5f) / scale_x - 0.5f, field.height, field.width);
    }
};

INLINE void trace(const Side &there, const Side &back, const Grid &grid, float height, float width, float *path,
                  float *trust) {
    for (int j = 0; j < grid.height; ++j)
        for (int i = 0; i < grid.width; ++i) {
            const float y = float(grid.y.scale * j + grid.y.offset), x = float(grid.x.scale * i + grid.x.offset);
            const Bilinear here = there.at(y, x);
            const float v = there.scale_y * here.of(there.field.v.data()), u = there.scale_x * here.of(there.field.u.data());
            const Bilinear other = back.at(y + v, x + u);
            const float bv = back.scale_y * other.of(back.field.v.data()), bu = back.scale_x * other.of(back.field.u.data());
            const float astray = (u + bu) * (u + bu) + (v + bv) * (v + bv);
            const float allowed = kReturn + kSpeed * (u * u + v * v + bu * bu + bv * bv);
            const float steep = std::hypot(here.of(there.level.dx.data()), here.of(there.level.dy.data()));
            const float levels = here.of(there.field.residual.data()) / (kLevels + kSteep * steep);
            const bool visible = y + v > -1 && y + v < height && x + u > -1 && x + u < width;
            const size_t cell = size_t(j) * grid.width + i;
            path[2 * cell] = v / float(grid.y.scale);
            path[2 * cell + 1] = u / float(grid.x.scale);
            trust[cell] = visible ? std::exp(-astray / allowed - levels * levels) : 0.0f;
        }
}

}  // namespace

MULTIVERSION
void measure(const Guide &now, const Guide &before, const Grid &grid, float *path, float *trust, float *back_path,
             float *back_trust) {
    // To check, and for scores that come from a later frame, half the resolution is enough.
    const Field forth = flow(now, before, 0), back = flow(before, now, 1);
    const Side there(forth, now, 0), here(back, before, 1);
    const float height = float(now.height()), width = float(now.width());
    trace(there, here, grid, height, width, path, trust);
    if (back_path) trace(here, there, grid, height, width, back_path, back_trust);
}

void compose(int height, int width, const float *first, const float *first_trust, const float *second,
             const float *second_trust, float *path, float *trust) {
    for (int j = 0; j < height; ++j)
        for (int i = 0; i < width; ++i) {
            const size_t cell = size_t(j) * width + i;
            const float v = first[2 * cell], u = first[2 * cell + 1];
            const Bilinear at(float(j) + v, float(i) + u, height, width);
            path[2 * cell] = v + at.of(second, 2, 0);
            path[2 * cell + 1] = u + at.of(second, 2, 1);
            trust[cell] = first_trust[cell] * at.of(second_trust);
        }
}

MULTIVERSION
void carry(const upsample::Scores &scores, const float *path, float *out) {
    const Cells from(scores);
    const size_t cells = size_t(scores.height) * scores.width;
    float found[256];
    for (int j = 0; j < scores.height; ++j)
        for (int i = 0; i < scores.width; ++i) {
            const size_t cell = size_t(j) * scores.width + i;
            from.at(float(j) + path[2 * cell], float(i) + path[2 * cell + 1], kSharp, found);
            for (int c = 0; c < scores.classes; ++c) out[c * cells + cell] = found[c];
        }
}

MULTIVERSION
void mix(const upsample::Scores &scores, const float *seen, const float *path, const float *trust, const float *now,
         const float *now_seen, float *out, float *out_seen) {
    const Cells from(scores);
    const size_t cells = size_t(scores.height) * scores.width;
    float found[256];
    for (int j = 0; j < scores.height; ++j)
        for (int i = 0; i < scores.width; ++i) {
            const size_t cell = size_t(j) * scores.width + i;
            const float v = path[2 * cell], u = path[2 * cell + 1];
            const float y = float(j) + v, x = float(i) + u;
            const float counts = kMoved + (1 - kMoved) * std::exp(-(v * v + u * u) / (kStill * kStill));
            const float other = counts * trust[cell] * trust[cell] * Bilinear(y, x, scores.height, scores.width).of(seen);
            const float all = other + now_seen[cell], weight = other / all;
            from.at(y, x, kExact, found);
            out_seen[cell] = all;
            for (int c = 0; c < scores.classes; ++c) {
                const float own = now[c * cells + cell];
                out[c * cells + cell] = own + weight * (found[c] - own);
            }
        }
}

MULTIVERSION
void between(const upsample::Scores &earlier, const float *path, const float *trust, const upsample::Scores &later,
             const float *later_path, const float *later_trust, float share, float *out) {
    const Cells from(earlier), to(later);
    const size_t cells = size_t(earlier.height) * earlier.width;
    float found[256], other[256];
    for (int j = 0; j < earlier.height; ++j)
        for (int i = 0; i < earlier.width; ++i) {
            const size_t cell = size_t(j) * earlier.width + i;
            from.at(float(j) + path[2 * cell], float(i) + path[2 * cell + 1], kSharp, found);
            to.at(float(j) + later_path[2 * cell], float(i) + later_path[2 * cell + 1], kSharp, other);
            const float a = (1 - share) * (trust[cell] + kDoubt), b = share * (later_trust[cell] + kDoubt);
            const float weight = b / (a + b);
            for (int c = 0; c < earlier.classes; ++c) out[c * cells + cell] = found[c] + weight * (other[c] - found[c]);
        }
}

}  // namespace motion
