#include "flow.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../dispatch.hpp"

namespace motion {
namespace {

constexpr int kStep = kPatch / 2;       // patches overlap by half
constexpr int kIterations = 8;          // of the search, at most
constexpr float kSettled = 0.02f;       // a step that is shorter ends it, in pixels
constexpr float kNoise = 64.0f;         // added to the squares of gradients: patches without texture stay put
constexpr float kAlike = 3.0f;          // levels below which a difference says nothing of the fit
constexpr float kPixels = kPatch * kPatch;

typedef float f8 __attribute__((vector_size(32), may_alias));
typedef float f8u __attribute__((vector_size(32), may_alias, aligned(4)));

INLINE f8 load(const float *from) { return *reinterpret_cast<const f8u *>(from); }
INLINE void store(float *to, f8 value) { *reinterpret_cast<f8u *>(to) = value; }
INLINE f8 splat(float x) { return f8{x, x, x, x, x, x, x, x}; }
INLINE float sum(f8 v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }
INLINE f8 magnitude(f8 v) { return v < splat(0.0f) ? -v : v; }

struct Patches {  // one axis: where they begin
    std::vector<int> start;
    explicit Patches(int length) {
        for (int at = 0; at < length - kPatch; at += kStep) start.push_back(at);
        start.push_back(length - kPatch);
    }
};

// The picture's pixels under a patch whose corner is at (y, x), between pixels too; never beyond the border.
INLINE void sample(const Level &level, float y, float x, f8 (&out)[kPatch]) {
    y = std::min(std::max(y, float(1 - kBorder)), float(level.height + kBorder - kPatch - 2));
    x = std::min(std::max(x, float(1 - kBorder)), float(level.width + kBorder - kPatch - 2));
    const float top = std::floor(y), left = std::floor(x), down = y - top, right = x - left;
    const float *from = level.at(int(top), int(left));
    const f8 w00 = splat((1 - down) * (1 - right)), w01 = splat((1 - down) * right);
    const f8 w10 = splat(down * (1 - right)), w11 = splat(down * right);
    f8 a = load(from), b = load(from + 1);
    for (int i = 0; i < kPatch; ++i) {
        from += level.stride;
        const f8 c = load(from), d = load(from + 1);
        out[i] = w00 * a + w01 * b + w10 * c + w11 * d;
        a = c;
        b = d;
    }
}

struct Template {  // a patch of the one picture, and what the search in the other needs of it
    f8 level[kPatch], dx[kPatch], dy[kPatch];
    float sum_dx, sum_dy, xx, xy, yy;  // the inverse of the structure tensor, the patch's mean taken out
    int y, x;
};

struct Match {
    float error, along_x, along_y;
};

INLINE void take(const Level &level, int y, int x, Template &t) {
    f8 sx = splat(0), sy = sx, xx = sx, xy = sx, yy = sx;
    for (int i = 0; i < kPatch; ++i) {
        const size_t at = size_t(y + i) * level.width + x;
        t.level[i] = load(level.at(y + i, x));
        const f8 dx = t.dx[i] = load(level.dx.data() + at), dy = t.dy[i] = load(level.dy.data() + at);
        sx += dx;
        sy += dy;
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    t.y = y;
    t.x = x;
    t.sum_dx = sum(sx);
    t.sum_dy = sum(sy);
    const float a = sum(xx) - t.sum_dx * t.sum_dx / kPixels + kNoise, b = sum(xy) - t.sum_dx * t.sum_dy / kPixels;
    const float d = sum(yy) - t.sum_dy * t.sum_dy / kPixels + kNoise, scale = 1.0f / (a * d - b * b);
    t.xx = d * scale;
    t.xy = -b * scale;
    t.yy = a * scale;
}

// How well the patch fits at a displacement, whatever the light, and which way it would fit better.
INLINE Match match(const Template &t, const Level &there, float u, float v) {
    f8 found[kPatch];
    sample(there, float(t.y) + v, float(t.x) + u, found);
    f8 total = splat(0), squares = total, x = total, y = total;
    for (int i = 0; i < kPatch; ++i) {
        const f8 d = found[i] - t.level[i];
        total += d;
        squares += d * d;
        x += t.dx[i] * d;
        y += t.dy[i] * d;
    }
    const float mean = sum(total) / kPixels;
    return {sum(squares) - mean * mean * kPixels, sum(x) - mean * t.sum_dx, sum(y) - mean * t.sum_dy};
}

struct Vector {
    float u, v;
};

INLINE Vector search(const Template &t, const Level &there, const Vector *candidates, int n) {
    Vector best = candidates[0];
    Match fit = match(t, there, best.u, best.v);
    for (int i = 1; i < n; ++i) {
        const Vector other = candidates[i];
        if (std::fabs(other.u - best.u) + std::fabs(other.v - best.v) < 0.25f) continue;
        const Match tried = match(t, there, other.u, other.v);
        if (tried.error < fit.error) {
            fit = tried;
            best = other;
        }
    }
    const Vector first = best;
    for (int i = 0; i < kIterations; ++i) {
        const float du = t.xx * fit.along_x + t.xy * fit.along_y, dv = t.xy * fit.along_x + t.yy * fit.along_y;
        const Vector next{best.u - du, best.v - dv};
        if (std::fabs(next.u - first.u) + std::fabs(next.v - first.v) > kPatch) break;
        const Match tried = match(t, there, next.u, next.v);
        if (!(tried.error < fit.error)) break;
        fit = tried;
        best = next;
        if (du * du + dv * dv < kSettled * kSettled) break;
    }
    return best;
}

INLINE Vector coarser_flow(const Field &coarse, int y, int x) {
    if (coarse.u.empty()) return {0.0f, 0.0f};
    const int cy = std::min((y + kPatch / 2) / 2, coarse.height - 1), cx = std::min((x + kPatch / 2) / 2, coarse.width - 1);
    const size_t at = size_t(cy) * coarse.width + cx;
    return {2 * coarse.u[at], 2 * coarse.v[at]};
}

// Every pixel takes the mean of the patches over it, those that fit it best counting most.
INLINE void spread(const Template &t, const Level &there, Vector at, Field &field, float *weights) {
    f8 found[kPatch];
    sample(there, float(t.y) + at.v, float(t.x) + at.u, found);
    for (int i = 0; i < kPatch; ++i) {
        const size_t place = size_t(t.y + i) * field.width + t.x;
        const f8 difference = magnitude(found[i] - t.level[i]);
        const f8 unlike = difference > splat(kAlike) ? difference : splat(kAlike);
        const f8 weight = splat(1.0f) / (unlike * unlike);
        store(weights + place, load(weights + place) + weight);
        store(field.u.data() + place, load(field.u.data() + place) + weight * splat(at.u));
        store(field.v.data() + place, load(field.v.data() + place) + weight * splat(at.v));
        store(field.residual.data() + place, load(field.residual.data() + place) + weight * difference);
    }
}

MULTIVERSION
void flow_of_level(const Level &here, const Level &there, const Field &coarse, Field &field) {
    const Patches rows(here.height), columns(here.width);
    const size_t pixels = size_t(here.height) * here.width, across = columns.start.size();
    field.height = here.height;
    field.width = here.width;
    for (auto *plane : {&field.u, &field.v, &field.residual}) plane->assign(pixels, 0.0f);
    std::vector<float> weights(pixels, 0.0f);
    std::vector<Vector> found(rows.start.size() * across);
    Template t;
    for (size_t j = 0; j < rows.start.size(); ++j)
        for (size_t i = 0; i < across; ++i) {
            take(here, rows.start[j], columns.start[i], t);
            Vector candidates[3] = {coarser_flow(coarse, t.y, t.x)};
            int n = 1;
            if (i > 0) candidates[n++] = found[j * across + i - 1];
            if (j > 0) candidates[n++] = found[(j - 1) * across + i];
            const Vector at = found[j * across + i] = search(t, there, candidates, n);
            spread(t, there, at, field, weights.data());
        }
    for (size_t k = 0; k < pixels; ++k) {
        const float scale = 1.0f / weights[k];
        field.u[k] *= scale;
        field.v[k] *= scale;
        field.residual[k] *= scale;
    }
}

}  // namespace

Field flow(const Guide &here, const Guide &there, int finest) {
    Field coarse, field;
    for (int level = int(here.levels.size()) - 1; level >= std::min(finest, int(here.levels.size()) - 1); --level) {
        flow_of_level(here.levels[level], there.levels[level], coarse, field);
        std::swap(coarse, field);
    }
    return coarse;
}

}  // namespace motion
