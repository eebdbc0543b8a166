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
    for (int i = 0; i < D; ++i)
        for (int j = i + 1; j <= D; ++j) {
            const i8 less = (at[i] - base[i]) < (at[j] - base[j]);
            rank[i] = rank[i] - less;
            rank[j] = rank[j] + 1 + less;
        }
    const i8 shift = __builtin_convertvector(off, i8);
    f8 inside[D + 1];
    int32_t corner[D + 1][kBlock] __attribute__((aligned(32)));
    for (int i = 0; i <= D; ++i) {
        rank[i] = rank[i] + shift;
        const i8 move = ((rank[i] < 0) & (D + 1)) - ((rank[i] > D) & (D + 1));
        rank[i] = rank[i] + move;
        base[i] = base[i] + __builtin_convertvector(move, f8);
        inside[i] = (at[i] - base[i]) * down;
        *(i8 *)corner[i] = __builtin_convertvector(base[i], i8);
    }

    int32_t axis[D + 1][kBlock] __attribute__((aligned(32)));
    float weight[D + 1][kBlock] __attribute__((aligned(32)));
    f8 sorted[D + 1];
    for (int k = 0; k <= D; ++k) {
        i8 value = splat8i(0), which = splat8i(0);
        for (int i = 0; i <= D; ++i) {
            const i8 here = rank[i] == D - k;
            value = value | ((i8)inside[i] & here);
            which = which | (here & i);
        }
        sorted[k] = (f8)value;
        *(i8 *)axis[k] = which;
    }
    *(f8 *)weight[0] = sorted[0] + (splat8(1.0f) - sorted[D]);
    for (int k = 1; k <= D; ++k) *(f8 *)weight[k] = sorted[k] - sorted[k - 1];

    for (int p = 0; p < kBlock; ++p) {
        uint64_t key = 0;
        for (int i = 0; i < D; ++i) key += uint64_t(corner[i][p] + packing.bias[i]) << packing.shift[i];
        for (int k = 0; k <= D; ++k) {
            s.key[p][k] = key;
            s.weight[p][k] = weight[k][p];
            key += packing.step[axis[k][p] & 7];
        }
    }
}

}  // namespace
}  // namespace crf
