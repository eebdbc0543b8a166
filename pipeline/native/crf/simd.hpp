// Eight floats at a time, by the vector extension of GCC and Clang: one source for every instruction set.
//
// Everything here is pulled into its caller; nothing of the standard library is used, so that a file
// compiled for AVX-512 leaves no function behind that a lesser processor might be given.
#pragma once

#include <cstdint>

#define CRF_INLINE inline __attribute__((always_inline))

namespace crf {
namespace {

typedef float f8 __attribute__((vector_size(32), may_alias));
typedef int32_t i8 __attribute__((vector_size(32), may_alias));

CRF_INLINE f8 splat8(float x) { return f8{x, x, x, x, x, x, x, x}; }
CRF_INLINE i8 splat8i(int32_t x) { return i8{x, x, x, x, x, x, x, x}; }
CRF_INLINE f8 max8(f8 a, f8 b) { return a > b ? a : b; }

CRF_INLINE float max_of(f8 v) {
    const f8 a = max8(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    const f8 b = max8(a, __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5));
    return b[0] > b[1] ? b[0] : b[1];
}

CRF_INLINE float sum_of(f8 v) {
    const f8 a = v + __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    const f8 b = a + __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5);
    return b[0] + b[1];
}

// The sums of eight vectors, by halves: sums_of(v)[i] is the sum of v[i].
CRF_INLINE f8 add_pairs(f8 a, f8 b) {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
CRF_INLINE f8 sums_of(const f8 *v) {
    const f8 low = add_pairs(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
    const f8 high = add_pairs(add_pairs(v[4], v[5]), add_pairs(v[6], v[7]));
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

// Nearest whole number, ties to even, for |x| < 2^22.  No compiler may simplify this (no -ffast-math).
CRF_INLINE f8 round8(f8 x) {
    const f8 magic = splat8(12582912.0f);
    return (x + magic) - magic;
}

// exp for arguments ≤ 80, to about 3e-7; e^-60 for what is below: as good as nothing, and no subnormal.
CRF_INLINE f8 exp8(f8 x) {
    const f8 y = max8(x, splat8(-60.0f)), magic = splat8(12582912.0f), log2e = splat8(1.44269504f);
    const f8 t = y * log2e + magic;  // the nearest whole number, in the lowest bits
    const f8 r = y * log2e - (t - magic);
    f8 p = splat8(1.32669704e-3f);
    p = p * r + splat8(9.67545975e-3f);
    p = p * r + splat8(5.55074262e-2f);
    p = p * r + splat8(2.40221218e-1f);
    p = p * r + splat8(6.93146949e-1f);
    p = p * r + splat8(1.00000007f);
    return (f8)((i8)p + ((i8)t << 23));
}

// Natural logarithm of normal positive numbers, to about 1e-7.
CRF_INLINE float log_of(float x) {
    union {
        float f;
        int32_t i;
    } u = {x};
    const int32_t e = (u.i - 0x3f3504f3) >> 23;
    u.i -= e * (1 << 23);
    const float f = u.f - 1.0f, s = f / (2.0f + f), z = s * s;
    const float r = z * (0.66666669f + z * (0.40000972f + z * (0.28498787f + z * 0.24279079f)));
    const float h = 0.5f * f * f;
    return float(e) * 0.69313812f + (f - (h - s * (h + r)) + float(e) * 9.0580006e-6f);
}

}  // namespace
}  // namespace crf
