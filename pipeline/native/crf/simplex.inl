// Which simplex a point lies in: A. Adams, J. Baek, A. Davis: Fast High-Dimensional Filtering Using the
// Permutohedral Lattice, Eurographics 2010.  The order of operations, the rounding and the way that
// ties fall are pydensecrf's, so that both have the same vertices; products are not fused with sums.
#include "kernels.hpp"
#include "simd.hpp"

namespace crf {
namespace {

template <int D>
CRF_INLINE void simplices(const Packing<D> &packing, Simplices<D> &s) {
    f8 at[D + 1], base[D + 1];
    i8 rank[D + 1];
    f8 sum = splat8(0);
    for (int j = D; j > 0; --j) {
        const f8 f = *(const f8 *)s.elevated[j - 1];
        at[j] = sum - splat8(float(j)) * f;
        sum = sum + f;
    }
    at[0] = sum;

    const f8 down = splat8(1.0f / (D + 1)), up = splat8(float(D + 1));
    f8 off = splat8(0);
    for (int i = 0; i <= D; ++i) {
        const f8 whole = round8(down * at[i]);
        base[i] = whole * up;
        off = off + whole;
        rank[i] = splat8i(0);
    }
#pragma GCC unroll 8
    for (int i = 0; i < D; ++i)
#pragma GCC unroll 8
        for (int j = i + 1; j <= D; ++j) {
            const i8 less = (at[i] - base[i]) < (at[j] - base[j]);
            rank[i] = rank[i] - less;
            rank[j] = rank[j] + 1 + less;
        }
    const i8 shift = __builtin_convertvector(off, i8);
    f8 inside[D + 1];
    u8 key = splat8u(packing.bias);
    for (int i = 0; i <= D; ++i) {
        rank[i] = rank[i] + shift;
        const i8 move = ((rank[i] < 0) & (D + 1)) - ((rank[i] > D) & (D + 1));
        rank[i] = rank[i] + move;
        base[i] = base[i] + __builtin_convertvector(move, f8);
        inside[i] = (at[i] - base[i]) * down;
        if (i < D) key = key + (__builtin_convertvector(__builtin_convertvector(base[i], i8), u8) << packing.shift[i]);
    }

    // From a corner to the next all coordinates grow by one, but that of one axis, which falls by D.
    const u8 all = splat8u(packing.all);
    f8 before = splat8(0), first = splat8(0);
#pragma GCC unroll 8
    for (int k = 0; k <= D; ++k) {
        i8 value = splat8i(0), fall = splat8i(0), shift_by = splat8i(0);
#pragma GCC unroll 8
        for (int i = 0; i <= D; ++i) {
            const i8 here = rank[i] == D - k;
            value = value | ((i8)inside[i] & here);
            if (i == D) continue;  // its coordinate is no part of the key
            fall = fall | (here & (D + 1));
            shift_by = shift_by | (here & packing.shift[i]);
        }
        *(u8 *)s.key[k] = key;
        key = key + all - (__builtin_convertvector(fall, u8) << __builtin_convertvector(shift_by, u8));
        const f8 sorted = (f8)value;
        if (k == 0) first = sorted;
        *(f8 *)s.weight[k] = sorted - before;
        before = sorted;
    }
    *(f8 *)s.weight[0] = first + (splat8(1.0f) - before);
}

}  // namespace
}  // namespace crf
