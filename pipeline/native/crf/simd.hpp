// Four, eight or sixteen floats at a time, by the vector extension of GCC and Clang: one source for every
// instruction set.
//
// Everything here is pulled into its caller; nothing of the standard library is used, so that a file
// compiled for AVX-512 leaves no function behind that a lesser processor might be given.
#pragma once

#include <cstdint>

#include "kernels.hpp"

#define CRF_INLINE inline __attribute__((always_inline))

namespace crf {
namespace {

typedef float f4 __attribute__((vector_size(16), may_alias));
typedef int32_t i4 __attribute__((vector_size(16), may_alias));
typedef float f8 __attribute__((vector_size(32), may_alias));
typedef int32_t i8 __attribute__((vector_size(32), may_alias));
typedef float f16 __attribute__((vector_size(64), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), may_alias));

typedef uint64_t u8 __attribute__((vector_size(64), may_alias, aligned(32)));

// As template arguments vectors would lose their attributes; these stand for them.
struct Four {
    typedef f4 Floats;
    typedef i4 Wholes;
};
struct Eight {
    typedef f8 Floats;
    typedef i8 Wholes;
};
struct Sixteen {
    typedef f16 Floats;
    typedef i16 Wholes;
};

// Records are aligned to four floats.
typedef float any8 __attribute__((vector_size(32), may_alias, aligned(4)));
typedef float any16 __attribute__((vector_size(64), may_alias, aligned(4)));

CRF_INLINE f4 load(Four, const float *p) { return *(const f4 *)p; }
CRF_INLINE f8 load(Eight, const float *p) { return *(const any8 *)p; }
CRF_INLINE f16 load(Sixteen, const float *p) { return *(const any16 *)p; }
CRF_INLINE void store(Four, float *p, f4 v) { *(f4 *)p = v; }
CRF_INLINE void store(Eight, float *p, f8 v) { *(any8 *)p = v; }
CRF_INLINE void store(Sixteen, float *p, f16 v) { *(any16 *)p = v; }
CRF_INLINE f4 splat(Four, float x) { return f4{x, x, x, x}; }
CRF_INLINE f8 splat(Eight, float x) { return f8{x, x, x, x, x, x, x, x}; }
CRF_INLINE f16 splat(Sixteen, float x) { return f16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

CRF_INLINE f8 splat8(float x) { return f8{x, x, x, x, x, x, x, x}; }
CRF_INLINE i8 splat8i(int32_t x) { return i8{x, x, x, x, x, x, x, x}; }
CRF_INLINE u8 splat8u(uint64_t x) { return u8{x, x, x, x, x, x, x, x}; }
CRF_INLINE f8 max8(f8 a, f8 b) { return a > b ? a : b; }

CRF_INLINE float max_of(f8 v) {
    const f8 a = max8(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    const f8 b = max8(a, __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5));
    return b[0] > b[1] ? b[0] : b[1];
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

// The same of their largest.
CRF_INLINE f8 max_pairs(f8 a, f8 b) {
    return max8(__builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14),
                __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15));
}
CRF_INLINE f8 maxima_of(const f8 *v) {
    const f8 low = max_pairs(max_pairs(v[0], v[1]), max_pairs(v[2], v[3]));
    const f8 high = max_pairs(max_pairs(v[4], v[5]), max_pairs(v[6], v[7]));
    return max8(__builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11),
                __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15));
}

// Nearest whole number, ties to even, for |x| < 2^22.  No compiler may simplify this (no -ffast-math).
CRF_INLINE f8 round8(f8 x) {
    const f8 magic = splat8(12582912.0f);
    return (x + magic) - magic;
}

// 2^x for -126 < x < 127, to about 3e-7.
template <typename As, typename V>
CRF_INLINE V exp2_of(As as, V x) {
    const V magic = splat(as, 12582912.0f);
    const V t = x + magic;  // the nearest whole number, in the lowest bits
    const V r = x - (t - magic);
    V p = splat(as, 1.32669704e-3f);
    p = p * r + splat(as, 9.67545975e-3f);
    p = p * r + splat(as, 5.55074262e-2f);
    p = p * r + splat(as, 2.40221218e-1f);
    p = p * r + splat(as, 6.93146949e-1f);
    p = p * r + splat(as, 1.00000007f);
    return (V)((typename As::Wholes)p + ((typename As::Wholes)t << 23));
}

// exp for arguments ≤ 80; e^-60 for what is below: as good as nothing, and no subnormal.
template <typename As, typename V>
CRF_INLINE V exp_of(As as, V x) {
    const V least = splat(as, -60.0f);
    return exp2_of(as, (x > least ? x : least) * splat(as, kLog2E));
}

// Eight floats of which the largest, or the sum, is that of all of v; `rest` is no larger than any.
CRF_INLINE f8 largest(f4 v, float rest) {
    return __builtin_shufflevector(v, f4{rest, rest, rest, rest}, 0, 1, 2, 3, 4, 5, 6, 7);
}
CRF_INLINE f8 largest(f8 v, float) { return v; }
CRF_INLINE f8 largest(f16 v, float) {
    return max8(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}
CRF_INLINE f8 folded(f4 v) { return __builtin_shufflevector(v, f4{}, 0, 1, 2, 3, 4, 5, 6, 7); }
CRF_INLINE f8 folded(f8 v) { return v; }
CRF_INLINE f8 folded(f16 v) {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Natural logarithms of normal positive numbers, to about 1e-7.
CRF_INLINE f8 log8(f8 x) {
    const i8 e = ((i8)x - splat8i(0x3f3504f3)) >> 23;
    const f8 f = (f8)((i8)x - (e << 23)) - splat8(1.0f), s = f / (splat8(2.0f) + f), z = s * s;
    f8 r = splat8(0.28498787f) + z * splat8(0.24279079f);
    r = z * (splat8(0.66666669f) + z * (splat8(0.40000972f) + z * r));
    const f8 h = splat8(0.5f) * f * f, exponent = __builtin_convertvector(e, f8);
    return exponent * splat8(0.69313812f) + (f - (h - s * (h + r)) + exponent * splat8(9.0580006e-6f));
}

}  // namespace
}  // namespace crf
