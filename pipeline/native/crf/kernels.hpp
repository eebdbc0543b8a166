// The inner loops, one table of them for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crf {

constexpr float kLog2E = 1.44269504f;          // unaries and messages are binary logarithms
constexpr float kLeastProbability = 1e-5f;     // no class is ever impossible

template <int D>
struct Vertices {  // the corners of the simplex that a pixel lies in, and its barycentric coordinates
    int32_t id[D + 1];  // where a vertex's values begin, in pairs of floats
    float weight[D + 1];
};

template <int D>
struct Packing {  // lattice coordinates, all but the last, as fields of one 64-bit key
    int32_t shift[D];
    uint64_t bias;         // makes all fields positive
    uint64_t all;          // one in each field
    uint64_t step[D + 1];  // what the key changes by from a corner to the next, by the axis in between
};

constexpr int kBlock = 8;   // pixels whose simplices are found together
constexpr int kSweep = 16;  // pixels that a sweep works on together: it reads so many past its last one

template <int D>
struct Simplices {
    alignas(32) float elevated[D][kBlock];  // in: features times the lattice's scale
    alignas(32) uint64_t key[D + 1][kBlock];
    alignas(32) float weight[D + 1][kBlock];
};

struct Upsampling {        // one column of scores, already interpolated between two columns of cells
    const float *column;   // cells × lanes
    const int32_t *cell;   // of each pixel: the cell before it
    const float *weight;   // of each pixel: how near it is to the cell after it
    int32_t last;          // the last cell
    const float *rest;     // cells: the score of all classes without a lane together; may be null
    float least_rest;      // their probability is at least this
    float most_rest;       // and their score at most this, relative to the best lane's
};

struct Strength {  // of a kernel's messages
    float weight;
    bool symmetric;  // it is in the barycentric coordinates, half of it on either way; else a factor of each pixel
};

struct Pass {  // one sweep over pixels [begin, end) in their order
    size_t begin, end;
    int lanes;
    const float *unary;  // pixels × lanes: binary logarithms of probabilities
    bool bounded;        // exponentials of what comes out cannot overflow
    const float *rest;   // pixels (and kSweep more): the summed probability of the classes without a lane; may be null
    const Vertices<5> *bilateral;  // null where the kernel has no weight; so with the other
    const Vertices<2> *spatial;
    bool first;  // there are no messages yet: the unary speaks alone
    bool splat;  // there is another sweep to come
    const float *bilateral_from, *spatial_from;  // blurred lattices
    float *bilateral_to, *spatial_to;            // lattices to splat into
    int32_t spatial_offset;                      // the vertex that spatial_to begins with
    const float *bilateral_scale, *spatial_scale;  // of the messages of each pixel; null where it is in the weights
    const float *count;  // pixels that each point stands for; may be null
    float doubt;  // a group of kSweep pixels is sure if no best class leaves more than this to the others; 0: none is
    // Of each group from begin on, whether it is frozen: a sweep that splats leaves it out, and freezes those that are
    // sure.  Null where none is to be.
    uint8_t *frozen;
    float *bilateral_frozen, *spatial_frozen;  // lattices with what frozen groups splat, once and for all
    float *q;  // begin's marginals first, a pixel of lanes each; or null
};

struct Kernels {
    int (*lanes)(int classes);  // floats in a record of so many classes: whole fours
    void (*simplices5)(const Packing<5> &, Simplices<5> &);
    void (*simplices2)(const Packing<2> &, Simplices<2> &);
    // In place along chains of neighbours: v ← v + (before + after) / 2.  A negative entry begins a chain.
    void (*blur)(const int32_t *chain, size_t length, float *values, int lanes);
    // out ← middle + (left + right) / 2.
    void (*blur_run)(const float *left, const float *middle, const float *right, float *out, size_t floats);
    // How many groups are sure; in a sweep that does not splat, how many frozen ones are not.
    int (*pass)(const Pass &);
    // The best lane of each of `count` records, the first where several are equal.
    void (*best)(const float *records, int count, int lanes, uint8_t *best);
    // Binary logarithms of probabilities, at least of kLeastProbability, of the pixels at `count` rows from interpolated scores.
    void (*unary)(const Upsampling &, const uint16_t *rows, int count, int lanes, float *out, float *rest);
};

#define CRF_LEVEL(name)                                              \
    const Kernels &name##_kernels();                                 \
    void name##_simplices5(const Packing<5> &, Simplices<5> &);      \
    void name##_simplices2(const Packing<2> &, Simplices<2> &);

CRF_LEVEL(portable)
#if defined(CRF_X86_KERNELS)
CRF_LEVEL(avx2)
CRF_LEVEL(avx512)
#endif
#undef CRF_LEVEL

}  // namespace crf
