// The mean field's inner loops; included once for every instruction set, which names its table.
#include "kernels.hpp"
#include "simd.hpp"

namespace crf {
namespace {

constexpr float kLeast = -11.5129255f;  // log 1e-5: no class is ever impossible
constexpr float kNoLane = -1.5e6f;      // below it is padding, which has no class
constexpr float kNothing = -100.0f;     // the binary logarithm that padding has
constexpr float kMost = 115.0f;         // no exponential of more
constexpr int kMostQuads = 64;           // of a record: 255 classes
template <int Q>
constexpr int kAhead = Q == 0 || Q > 4 ? 16 : Q > 2 ? 24 : 32;  // vertices to fetch in advance

// A record of Q times four floats, piece by piece, as wide as the processor has them: act(their kind, first float).
// Q = 0: of `quads`, which is known at run time alone.
template <int Q, typename Act>
CRF_INLINE void pieces(int quads, const Act &act) {
    const int floats = 4 * (Q ? Q : quads);
    int g = 0;
#if defined(__AVX512F__)
    if (floats % 16 == 0)  // else half of them would lie across two cache lines
        for (; g < floats; g += 16) act(Sixteen{}, g);
#endif
#if defined(__AVX2__)
    for (; g + 8 <= floats; g += 8) act(Eight{}, g);
#endif
    for (; g < floats; g += 4) act(Four{}, g);
}

template <int Q>
struct Count {
    static constexpr int value = Q;
};

template <int Q>
CRF_INLINE void prefetch(const float *p) {
    for (int g = 0; g < 4 * (Q ? Q : 8); g += 16) __builtin_prefetch(p + g);
}

// Where a chain ends is no branch, which nothing could foresee: what lies beyond the end is multiplied by zero.
template <int Q>
CRF_INLINE void blur_chains(const int32_t *chain, size_t length, float *values, int quads) {
    const size_t record = 4 * (Q ? Q : quads);
    alignas(64) float before[4 * (Q ? Q : kMostQuads)] = {}, old[4 * (Q ? Q : kMostQuads)];
    const auto place = [&](int32_t entry) { return values + size_t(entry & INT32_MAX) * record; };
    if (length) pieces<Q>(quads, [&](auto as, int g) { store(as, old + g, load(as, place(chain[0]) + g)); });
    for (size_t i = 0; i < length; ++i) {
        if (i + kAhead<Q> < length) prefetch<Q>(place(chain[i + kAhead<Q>]));
        const int32_t next = i + 1 < length ? chain[i + 1] : INT32_MIN | chain[i];
        const float on = next < 0 ? 0.0f : 1.0f;
        float *const here = place(chain[i]);
        const float *const after = place(next);
        pieces<Q>(quads, [&](auto as, int g) {
            const auto mine = load(as, old + g), following = load(as, after + g), linked = splat(as, on);
            store(as, here + g, mine + splat(as, 0.5f) * (load(as, before + g) + following * linked));
            store(as, before + g, mine * linked);
            store(as, old + g, following);
        });
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

// Calls `act` with the number of quads, as a constant where there are few.
template <typename Act>
CRF_INLINE auto with_quads(int lanes, const Act &act) {
    switch (lanes / 4) {
        case 1: return act(Count<1>{});
        case 2: return act(Count<2>{});
        case 3: return act(Count<3>{});
        case 4: return act(Count<4>{});
        case 5: return act(Count<5>{});
        case 6: return act(Count<6>{});
        default: return act(Count<0>{});
    }
}

int lanes(int classes) {
    const int floats = (classes + 3) / 4 * 4;
#if defined(__AVX512F__)
    if (floats == 12) return 16;  // a register and a cache line, of which most records of twelve would touch two
#endif
    return floats;
}

void blur(const int32_t *chain, size_t length, float *values, int lanes) {
    if (lanes == 1) return blur_scalar(chain, length, values);
    with_quads(lanes, [&](auto q) { blur_chains<decltype(q)::value>(chain, length, values, lanes / 4); });
}

// out ← middle + (left + right) / 2, for any number of floats.
void blur_run(const float *left, const float *middle, const float *right, float *out, size_t floats) {
    const f8 half = splat8(0.5f);
    size_t i = 0;
    for (; i + 8 <= floats; i += 8)
        *(any8 *)(out + i) = *(const any8 *)(middle + i) + half * (*(const any8 *)(left + i) + *(const any8 *)(right + i));
    for (; i < floats; ++i) out[i] = middle[i] + 0.5f * (left[i] + right[i]);
}

template <int D>
struct Corners {  // where a pixel's vertices have their values, and what these are multiplied by
    const float *value[D + 1];
    float weight[D + 1];

    CRF_INLINE Corners(const Vertices<D> &point, const float *from, float scale) {
        for (int k = 0; k <= D; ++k) {
            value[k] = from + size_t(point.id[k]) * 2;
            weight[k] = point.weight[k] * scale;
        }
    }
    template <typename As>
    CRF_INLINE auto times(As as, int k, int g) const {
        return splat(as, weight[k]) * load(as, value[k] + g);
    }
};

template <int Q, int D>
CRF_INLINE void splat_into(const Vertices<D> &point, const float *q, float *to, int32_t offset, int quads) {
    float *value[D + 1];
    for (int k = 0; k <= D; ++k) value[k] = to + size_t(point.id[k] - offset) * 2;
    pieces<Q>(quads, [&](auto as, int g) {
        const auto mine = load(as, q + g);
        for (int k = 0; k <= D; ++k)
            store(as, value[k] + g, load(as, value[k] + g) + splat(as, point.weight[k]) * mine);
    });
}

// Whether the best class of every pixel of a group leaves no more than `doubt` to the others together.
template <int Q>
__attribute__((noinline)) bool surely(const float *records, const float *scale, float doubt, int count, int quads) {
    constexpr int kStride = 4 * (Q ? Q : kMostQuads);
    f8 most[kSweep];
    alignas(32) float top[kSweep];
    for (int i = 0; i < kSweep; ++i) {
        most[i] = splat8(0);
        if (i < count)
            pieces<Q>(quads, [&](auto as, int g) {
                most[i] = max8(most[i], largest(load(as, records + i * kStride + g), 0));
            });
    }
    for (int i = 0; i < kSweep; i += 8) store(Eight{}, top + i, maxima_of(most + i));
    bool sure = true;
    for (int i = 0; i < count; ++i) sure &= 1.0f - top[i] * scale[i] <= doubt;
    return sure;
}

// Step by step over a few pixels, not pixel by pixel: the processor then finds independent work while
// it waits for a pixel's chain of sums, exponentials and quotient.
template <int Q, bool Scaled, bool Bilateral, bool Spatial>
CRF_INLINE int sweep(const Pass &s) {
    constexpr int kStride = 4 * (Q ? Q : kMostQuads);
    const int quads = Q ? Q : s.lanes / 4;
    alignas(64) float a[kSweep * kStride];
    f8 total[kSweep], inverse[kSweep / 8];
    const float *scale = (const float *)inverse;
    int found = 0;
    for (size_t first = s.begin; first < s.end; first += kSweep) {
        uint8_t *const frozen = s.frozen ? s.frozen + (first - s.begin) / kSweep : nullptr;
        if (frozen && *frozen && s.splat) continue;
        const int count = s.end - first < kSweep ? int(s.end - first) : kSweep;
        for (int i = 0; i < 4 * kSweep * quads; i += 16)
            __builtin_prefetch(s.unary + (first + kSweep) * 4 * quads + i);
        for (int i = 0; i < count; ++i) {
            const size_t p = first + i;
            const float *unary = s.unary + p * 4 * quads;
            float *sum = a + i * kStride;
            if (s.first) {
                pieces<Q>(quads, [&](auto as, int g) { store(as, sum + g, load(as, unary + g)); });
                continue;
            }
            if constexpr (Spatial) {
                const Vertices<2> &later = s.spatial[p + kSweep];
                for (int k = 0; k < 3; ++k) prefetch<Q>(s.spatial_from + size_t(later.id[k]) * 2);
            }
            if constexpr (!Spatial) {
                const Corners<5> near(s.bilateral[p], s.bilateral_from, Scaled ? s.bilateral_scale[p] : 1.0f);
                pieces<Q>(quads, [&](auto as, int g) {
                    const auto one =
                        load(as, unary + g) + near.times(as, 0, g) + near.times(as, 1, g) + near.times(as, 2, g);
                    const auto two = near.times(as, 3, g) + near.times(as, 4, g) + near.times(as, 5, g);
                    store(as, sum + g, one + two);
                });
            } else if constexpr (!Bilateral) {
                const Corners<2> beside(s.spatial[p], s.spatial_from, Scaled ? s.spatial_scale[p] : 1.0f);
                pieces<Q>(quads, [&](auto as, int g) {
                    const auto three = beside.times(as, 0, g) + beside.times(as, 1, g) + beside.times(as, 2, g);
                    store(as, sum + g, load(as, unary + g) + three);
                });
            } else {
                const Corners<5> near(s.bilateral[p], s.bilateral_from, Scaled ? s.bilateral_scale[p] : 1.0f);
                const Corners<2> beside(s.spatial[p], s.spatial_from, Scaled ? s.spatial_scale[p] : 1.0f);
                // Three short chains of sums are done sooner than a long one.
                pieces<Q>(quads, [&](auto as, int g) {
                    const auto one =
                        load(as, unary + g) + near.times(as, 0, g) + near.times(as, 1, g) + near.times(as, 2, g);
                    const auto two = near.times(as, 3, g) + near.times(as, 4, g) + near.times(as, 5, g);
                    const auto three = beside.times(as, 0, g) + beside.times(as, 1, g) + beside.times(as, 2, g);
                    store(as, sum + g, one + (two + three));
                });
            }
        }
        if (s.bounded) {
            for (int i = 0; i < count; ++i) {
                f8 sum = splat8(0);
                pieces<Q>(quads, [&](auto as, int g) {
                    const auto x = load(as, a + i * kStride + g), most = splat(as, kMost);
                    const auto power = exp2_of(as, x < most ? x : most);
                    store(as, a + i * kStride + g, power);
                    sum = sum + folded(power);
                });
                total[i] = sum;
            }
        } else {
            for (int i = 0; i < count; ++i) {
                float *x = a + i * kStride;
                f8 most = splat8(kNothing), sum = splat8(0);
                pieces<Q>(quads, [&](auto as, int g) { most = max8(most, largest(load(as, x + g), kNothing)); });
                const float top = max_of(most);
                pieces<Q>(quads, [&](auto as, int g) {
                    const auto less = load(as, x + g) - splat(as, top), least = splat(as, kNothing);
                    const auto power = exp2_of(as, less > least ? less : least);
                    store(as, x + g, power);
                    sum = sum + folded(power);
                });
                const f8 least = splat8(top < -kNothing ? -top : kNothing);
                if (s.rest) sum[0] += s.rest[first + i] * (exp2_of(Eight{}, least)[0] - 1.0f);
                total[i] = sum;
            }
        }
        for (int i = count; i < kSweep; ++i) total[i] = splat8(1.0f);
        for (int i = 0; i < kSweep; i += 8) {
            f8 sum = sums_of(total + i);
            if (s.rest) sum = sum + *(const any8 *)(s.rest + first + i);
            inverse[i / 8] = splat8(1.0f) / sum;
        }
        const bool sure = s.doubt > 0 && surely<Q>(a, scale, s.doubt, count, quads);
        found += s.splat ? sure : frozen && *frozen && !sure;
        for (int i = 0; i < count; ++i) {
            float *q = a + i * kStride;
            const float by = s.splat && s.count ? scale[i] * s.count[first + i] : scale[i];
            pieces<Q>(quads, [&](auto as, int g) { store(as, q + g, load(as, q + g) * splat(as, by)); });
            if (s.splat) {
                if constexpr (Bilateral) splat_into<Q>(s.bilateral[first + i], q, s.bilateral_to, 0, quads);
                if constexpr (Spatial) splat_into<Q>(s.spatial[first + i], q, s.spatial_to, s.spatial_offset, quads);
            }
            float *const out = s.q + (first + i - s.begin) * 4 * quads;
            if (s.q) pieces<Q>(quads, [&](auto as, int g) { store(as, out + g, load(as, q + g)); });
        }
        if (!frozen || !s.splat || !sure) continue;
        *frozen = 1;
        for (int i = 0; i < count; ++i) {
            const float *q = a + i * kStride;
            if constexpr (Bilateral) splat_into<Q>(s.bilateral[first + i], q, s.bilateral_frozen, 0, quads);
            if constexpr (Spatial) splat_into<Q>(s.spatial[first + i], q, s.spatial_frozen, 0, quads);
        }
    }
    return found;
}

template <int Q, bool Scaled>
CRF_INLINE int sweep_kernels(const Pass &s) {
    if (!s.spatial) return sweep<Q, Scaled, true, false>(s);
    if (!s.bilateral) return sweep<Q, Scaled, false, true>(s);
    return sweep<Q, Scaled, true, true>(s);
}

int pass(const Pass &s) {
    return with_quads(s.lanes, [&](auto q) {
        constexpr int kQuads = decltype(q)::value;
        return s.bilateral_scale || s.spatial_scale ? sweep_kernels<kQuads, true>(s) : sweep_kernels<kQuads, false>(s);
    });
}

void best_lanes(const float *records, int count, int lanes, uint8_t *best) {
    const int quads = lanes / 4;
    const f4 ascending{0, 1, 2, 3};
    f8 most[8] = {}, first[8] = {};
    alignas(32) float top[8], lane[8];
    for (int begin = 0; begin < count; begin += 8, records += 8 * lanes, best += 8) {
        const int n = count - begin < 8 ? count - begin : 8;
        for (int i = 0; i < n; ++i) {
            most[i] = splat8(0);
            pieces<0>(quads, [&](auto as, int g) {
                most[i] = max8(most[i], largest(load(as, records + i * lanes + g), 0));
            });
        }
        store(Eight{}, top, maxima_of(most));
        for (int i = 0; i < n; ++i) {
            f4 nearest = splat(Four{}, -1000.0f);  // minus the lane
            for (int g = 0; g < lanes; g += 4) {
                const f4 here = splat(Four{}, float(-g)) - ascending;
                const f4 now = load(Four{}, records + i * lanes + g) == splat(Four{}, top[i]) ? here : nearest;
                nearest = now > nearest ? now : nearest;
            }
            first[i] = largest(nearest, -1000.0f);
        }
        store(Eight{}, lane, maxima_of(first));
        for (int i = 0; i < n; ++i) best[i] = uint8_t(-lane[i]);
    }
}

// Pixel after pixel would be one long chain: each step is taken for eight of them.
template <int Q>
CRF_INLINE void log_probabilities(const Upsampling &up, const uint16_t *rows, int count, int quads, float *out,
                                  float *rest) {
    const int record = 4 * (Q ? Q : quads);
    f8 most[8] = {}, total[8] = {};
    alignas(32) float lumped[8] = {}, top[8], scale[8];
    for (int first = 0; first < count; first += 8) {
        const int n = count - first < 8 ? count - first : 8;
        float *const z = out + size_t(first) * record;
        for (int i = 0; i < n; ++i) {
            const int row = rows[first + i], near = up.cell[row], far = near < up.last ? near + 1 : near;
            const float *left = up.column + size_t(near) * record, *right = up.column + size_t(far) * record;
            most[i] = splat8(-3e6f);
            pieces<Q>(quads, [&](auto as, int g) {
                const auto one = load(as, left + g), two = load(as, right + g);
                const auto score = one + (two - one) * splat(as, up.weight[row]);
                store(as, z + i * record + g, score);
                most[i] = max8(most[i], largest(score, -3e6f));
            });
            if (up.rest) lumped[i] = up.rest[near] + (up.rest[far] - up.rest[near]) * up.weight[row];
        }
        const f8 best = maxima_of(most);
        store(Eight{}, top, best);
        for (int i = 0; i < n; ++i) {
            total[i] = splat8(0);
            pieces<Q>(quads, [&](auto as, int g) {
                total[i] = total[i] + folded(exp_of(as, load(as, z + i * record + g) - splat(as, top[i])));
            });
        }
        f8 sum = sums_of(total);
        if (up.rest) {
            const f8 behind = load(Eight{}, lumped) - best, limit = splat8(up.most_rest);
            const f8 others = exp_of(Eight{}, behind < limit ? behind : limit);
            sum = sum + others;
            alignas(32) float share[8];
            store(Eight{}, share, max8(others / sum, splat8(up.least_rest)));
            for (int i = 0; i < n; ++i) rest[first + i] = share[i];
        }
        store(Eight{}, scale, best + log8(sum));
        for (int i = 0; i < n; ++i)
            pieces<Q>(quads, [&](auto as, int g) {
                float *const to = z + i * record + g;
                const auto score = load(as, to), less = score - splat(as, scale[i]), least = splat(as, kLeast);
                const auto likely = (less > least ? less : least) * splat(as, kLog2E);
                store(as, to, score > splat(as, kNoLane) ? likely : splat(as, kNothing));
            });
    }
}

void unary(const Upsampling &up, const uint16_t *rows, int count, int lanes, float *out, float *rest) {
    with_quads(lanes, [&](auto q) { log_probabilities<decltype(q)::value>(up, rows, count, lanes / 4, out, rest); });
}

}  // namespace
}  // namespace crf
