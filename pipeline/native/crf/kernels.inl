// The mean field's inner loops; included once for every instruction set, which names its table.
#include "kernels.hpp"
#include "simd.hpp"

namespace crf {
namespace {

constexpr float kLeast = -11.5129255f;  // log 1e-5: no class is ever impossible
constexpr float kNoLane = -1.5e6f;      // below it is padding, which has no class
constexpr int kPixels = 16;              // that are worked on together
template <int G>
constexpr int kAhead = G == 1 ? 32 : G == 2 ? 24 : 16;  // vertices to fetch in advance

template <int G>
CRF_INLINE void prefetch(const float *p) {
    for (int g = 0; g < (G ? G : 4); g += 2) __builtin_prefetch(p + 8 * g);
}

template <int G>
CRF_INLINE void blur_chains(const int32_t *chain, size_t length, float *values, int lanes) {
    const int groups = G ? G : lanes / 8;
    const f8 half = splat8(0.5f);
    f8 before[G ? G : 32] = {};
    for (size_t i = 0; i < length; ++i) {
        if (i + kAhead<G> < length) prefetch<G>(values + size_t(chain[i + kAhead<G>] & 0x7fffffff) * 8 * groups);
        f8 *here = (f8 *)(values + size_t(chain[i] & 0x7fffffff) * 8 * groups);
        if (chain[i] < 0)
            for (int g = 0; g < groups; ++g) before[g] = splat8(0);
        if (i + 1 < length && chain[i + 1] >= 0) {
            const f8 *after = (const f8 *)(values + size_t(chain[i + 1]) * 8 * groups);
            for (int g = 0; g < groups; ++g) {
                const f8 old = here[g];
                here[g] = old + half * (before[g] + after[g]);
                before[g] = old;
            }
        } else {
            for (int g = 0; g < groups; ++g) here[g] = here[g] + half * before[g];
        }
    }
}

void blur_scalar(const int32_t *chain, size_t length, float *values) {
    float before = 0;
    for (size_t i = 0; i < length; ++i) {
        if (chain[i] < 0) before = 0;
        float &here = values[chain[i] & 0x7fffffff];
        const float after = i + 1 < length && chain[i + 1] >= 0 ? values[chain[i + 1]] : 0.0f;
        const float old = here;
        here = old + 0.5f * (before + after);
        before = old;
    }
}

void blur(const int32_t *chain, size_t length, float *values, int lanes) {
    switch (lanes) {
        case 1: return blur_scalar(chain, length, values);
        case 8: return blur_chains<1>(chain, length, values, lanes);
        case 16: return blur_chains<2>(chain, length, values, lanes);
        case 24: return blur_chains<3>(chain, length, values, lanes);
        case 32: return blur_chains<4>(chain, length, values, lanes);
        default: return blur_chains<0>(chain, length, values, lanes);
    }
}

typedef float any8 __attribute__((vector_size(32), may_alias, aligned(4)));

// out ← middle + (left + right) / 2, for any number of floats.
void blur_run(const float *left, const float *middle, const float *right, float *out, size_t floats) {
    const f8 half = splat8(0.5f);
    size_t i = 0;
    for (; i + 8 <= floats; i += 8)
        *(any8 *)(out + i) = *(const any8 *)(middle + i) + half * (*(const any8 *)(left + i) + *(const any8 *)(right + i));
    for (; i < floats; ++i) out[i] = middle[i] + 0.5f * (left[i] + right[i]);
}

template <int G, int D>
CRF_INLINE void slice(const Vertices<D> &at, const float *from, float scale, f8 *a, int groups) {
    f8 sum[G ? G : 32];
    for (int g = 0; g < groups; ++g) sum[g] = splat8(0);
    for (int k = 0; k <= D; ++k) {
        const f8 w = splat8(at.weight[k]);
        const f8 *v = (const f8 *)(from + size_t(at.id[k]) * 2);
        for (int g = 0; g < groups; ++g) sum[g] = sum[g] + w * v[g];
    }
    for (int g = 0; g < groups; ++g) a[g] = a[g] + splat8(scale) * sum[g];
}

template <int G, int D>
CRF_INLINE void splat(const Vertices<D> &at, const f8 *q, float *to, int32_t offset, int groups) {
    for (int k = 0; k <= D; ++k) {
        const f8 w = splat8(at.weight[k]);
        f8 *v = (f8 *)(to + size_t(at.id[k] - offset) * 2);
        for (int g = 0; g < groups; ++g) v[g] = v[g] + w * q[g];
    }
}

// Step by step over a few pixels, not pixel by pixel: the processor then finds independent work while
// it waits for a pixel's chain of sums, exponentials and quotient.
template <int G>
CRF_INLINE void sweep(const Pass &s) {
    constexpr int kStride = G ? G : 32;
    const int groups = G ? G : s.lanes / 8;
    f8 a[kPixels * kStride], total[kPixels], inverse[kPixels / 8];
    const float *scale = (const float *)inverse;
    for (size_t first = s.begin; first < s.end; first += kPixels) {
        const int count = s.end - first < kPixels ? int(s.end - first) : kPixels;
        for (size_t i = 0; i < sizeof(f8) * kPixels * groups; i += 64)
            __builtin_prefetch((const char *)(s.unary + (first + kPixels) * 8 * groups) + i);
        for (int i = 0; i < count; ++i) {
            const size_t p = first + i;
            const f8 *unary = (const f8 *)(s.unary + p * 8 * groups);
            f8 *sum = a + i * kStride;
            if (s.bilateral_from) {
                const Vertices<2> &later = s.spatial[p + kPixels];
                for (int k = 0; k < 3; ++k) prefetch<G>(s.spatial_from + size_t(later.id[k]) * 2);
            }
            for (int g = 0; g < groups; ++g) sum[g] = unary[g];
            if (s.bilateral_from) {
                slice<G>(s.bilateral[p], s.bilateral_from, s.bilateral_scale[p * s.scale_step], sum, groups);
                slice<G>(s.spatial[p], s.spatial_from, s.spatial_scale[p * s.scale_step], sum, groups);
            }
        }
        if (s.bounded) {
            const f8 most = splat8(80.0f);
            for (int i = 0; i < count; ++i) {
                f8 sum = splat8(0);
                for (int g = 0; g < groups; ++g) {
                    f8 &x = a[i * kStride + g];
                    x = exp8(x < most ? x : most);
                    sum = sum + x;
                }
                total[i] = sum;
            }
        } else {
            for (int i = 0; i < count; ++i) {
                f8 most = a[i * kStride], sum = splat8(0);
                for (int g = 1; g < groups; ++g) most = max8(most, a[i * kStride + g]);
                const float top = max_of(most);
                for (int g = 0; g < groups; ++g) {
                    f8 &x = a[i * kStride + g];
                    x = exp8(x - splat8(top));
                    sum = sum + x;
                }
                if (s.rest) sum[0] += s.rest[first + i] * (exp8(splat8(-top))[0] - 1.0f);
                total[i] = sum;
            }
        }
        for (int i = count; i < kPixels; ++i) total[i] = splat8(1.0f);
        for (int i = 0; i < kPixels; i += 8) {
            f8 sum = sums_of(total + i);
            if (s.rest) sum = sum + *(const any8 *)(s.rest + first + i);
            inverse[i / 8] = splat8(1.0f) / sum;
        }
        for (int i = 0; i < count; ++i) {
            f8 q[kStride];
            for (int g = 0; g < groups; ++g) q[g] = a[i * kStride + g] * splat8(scale[i]);
            if (s.bilateral_to) {
                if (s.count)
                    for (int g = 0; g < groups; ++g) q[g] = q[g] * splat8(s.count[first + i]);
                splat<G>(s.bilateral[first + i], q, s.bilateral_to, 0, groups);
                splat<G>(s.spatial[first + i], q, s.spatial_to, s.spatial_offset, groups);
            }
            if (s.q) {
                f8 *to = (f8 *)(s.q + (first + i - s.begin) * 8 * groups);
                for (int g = 0; g < groups; ++g) to[g] = q[g];
            }
        }
    }
}

void pass(const Pass &s) {
    switch (s.lanes) {
        case 8: return sweep<1>(s);
        case 16: return sweep<2>(s);
        case 24: return sweep<3>(s);
        case 32: return sweep<4>(s);
        default: return sweep<0>(s);
    }
}

template <int G>
CRF_INLINE void log_probabilities(const Upsampling &up, const uint16_t *rows, int count, int lanes, float *out,
                                  float *rest) {
    const int groups = G ? G : lanes / 8;
    f8 z[G ? G : 32];
    for (int i = 0; i < count; ++i) {
        const int near = up.cell[rows[i]], far = near < up.last ? near + 1 : near;
        const f8 *left = (const f8 *)(up.column + size_t(near) * 8 * groups);
        const f8 *right = (const f8 *)(up.column + size_t(far) * 8 * groups);
        const f8 w = splat8(up.weight[rows[i]]);
        f8 most = splat8(-3e6f);
        for (int g = 0; g < groups; ++g) {
            z[g] = left[g] + (right[g] - left[g]) * w;
            most = max8(most, z[g]);
        }
        const float top = max_of(most);
        f8 total = splat8(0);
        for (int g = 0; g < groups; ++g) total = total + exp8(z[g] - splat8(top));
        float sum = sum_of(total);
        if (up.rest) {
            const float z_rest = up.rest[near] + (up.rest[far] - up.rest[near]) * up.weight[rows[i]];
            const float others = exp8(splat8(z_rest - top < 80.0f ? z_rest - top : 80.0f))[0];
            sum += others;
            rest[i] = others / sum > up.least_rest ? others / sum : up.least_rest;
        }
        const f8 scale = splat8(top + log_of(sum));
        f8 *to = (f8 *)(out + size_t(i) * 8 * groups);
        for (int g = 0; g < groups; ++g)
            to[g] = z[g] > splat8(kNoLane) ? max8(z[g] - scale, splat8(kLeast)) : splat8(-1e4f);
    }
}

void unary(const Upsampling &up, const uint16_t *rows, int count, int lanes, float *out, float *rest) {
    switch (lanes) {
        case 8: return log_probabilities<1>(up, rows, count, lanes, out, rest);
        case 16: return log_probabilities<2>(up, rows, count, lanes, out, rest);
        case 24: return log_probabilities<3>(up, rows, count, lanes, out, rest);
        case 32: return log_probabilities<4>(up, rows, count, lanes, out, rest);
        default: return log_probabilities<0>(up, rows, count, lanes, out, rest);
    }
}

}  // namespace
}  // namespace crf
