#include "field.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace crf {
namespace {

// Messages sum up to the weights, but for the symmetric normalisation, which may pass them by a little.
constexpr float kBounded = 20.0f;

// Live has a point in every pixel where two classes are closer than this share of all weights; messages that are
// normalised afterwards reach further.  Found on camera pictures: docs/crf.md tells how far the labels agree.
constexpr float kMargin = 0.25f, kMarginAfter = 0.35f;

// A group of points is frozen once the best class of each leaves no more than this to the others.  Where one leaves more
// than kThawed in the end, all begins anew with none frozen.  Heavier kernels could turn what looks as sure as that.
constexpr float kFrozen = 2e-6f, kThawed = 1e-3f, kHeaviest = 15.0f;

// What a point leaves before the first messages, which will mostly be for its best class, and sum up to nearly their weights.
float before_messages(const Energy &energy) {
    return std::min(kFrozen * std::exp(0.8f * (energy.pos_w + energy.bi_w)), 0.3f);
}

constexpr double kWorth = 0.25;  // points a vertex, to be worth freezing
constexpr int kDecides = 3;      // sweeps in which freezing begins, or never

constexpr int kCalm = 100;  // pictures in a row that need less than half of the memory before it is given back

}  // namespace

Field::Field(int height, int width, const Energy &energy, bool sampled, const Kernels &kernels, Team &team)
    : energy_(energy),
      sampled_(sampled),
      kernels_(kernels),
      team_(team),
      order_(height, width, team.size()),
      all_(order_) {
    if (energy.pos_w > 0)
        spatial_.emplace(order_, energy.pos_xy, Strength{energy.pos_w, energy.symmetric}, sampled, kernels, team);
    if (energy.bi_w > 0) make_bilateral();
}

void Field::make_bilateral() {
    bilateral_.emplace(order_, Lattice::Sigmas{energy_.bi_xy, energy_.bi_rgb}, Strength{energy_.bi_w, energy_.symmetric},
                       team_.size());
}

void Field::infer(const uint8_t *image, const upsample::Scores &scores, upsample::Map y, upsample::Map x,
                  const std::vector<uint8_t> &alive, double gap, int iterations, uint8_t *labels,
                  ptrdiff_t stride, float *marginals) {
    iterates_ = iterations > 0 && (spatial_ || bilateral_);
    alive_ = alive;
    unary_.load(scores, y, x, alive, gap, kernels_.lanes(int(alive.size())), order_.height, order_.width);
    if (sampled_) {
        const float share = energy_.symmetric ? kMargin : kMarginAfter;
        sampling_.choose(unary_, share * (energy_.pos_w + energy_.bi_w), all_, order_);
    }
    unary_.spread(order_, kernels_, team_);
    if (marginals && alive_.size() < size_t(scores.classes))
        std::fill_n(marginals, size_t(scores.classes) * order_.pixels(), 0.0f);
    if (iterates_) build(image);
    if (!iterates_) iterations = 0;
    const bool may_freeze = energy_.pos_w + energy_.bi_w <= kHeaviest;
    const bool right = iterate(iterations, may_freeze, labels, stride, marginals);
    if (!right && !sampled_) iterate(iterations, false, labels, stride, marginals);
}

// False if groups of points that were frozen should not have been.
bool Field::iterate(int iterations, bool may_freeze, uint8_t *labels, ptrdiff_t stride, float *marginals) {
    Freezing freezing = Freezing::none;
    for (int i = 0;; ++i) {
        const bool last = i == iterations;
        float doubt = 0;
        if (last)
            doubt = freezing == Freezing::none ? 0.0f : kThawed;
        else if (may_freeze && i + 2 < iterations && (i < kDecides || freezing != Freezing::none))
            doubt = i == 0 ? before_messages(energy_) : kFrozen;
        const size_t found = sweep(i == 0, last, freezing, doubt, labels, stride, marginals);
        if (last) return found == 0 || freezing == Freezing::none;
        if (freezing != Freezing::none)
            freezing = Freezing::goes_on;
        else if (doubt > 0 && i + 3 < iterations && worth_freezing(found))
            freezing = Freezing::begins;
        if (freezing == Freezing::begins) {
            frozen_.assign(group(order_.tiles()), 0);
            if (bilateral_) frozen_values_.need(bilateral_->size() * lanes());
            if (spatial_) spatial_->prepare_frozen();
        }
        if (spatial_) spatial_->finish();
        if (bilateral_) bilateral_->blur(values_[0].data(), lanes(), kernels_, team_);
    }
}

// Beginning with what frozen groups have splatted takes time for each vertex, going through a group for each point.
bool Field::worth_freezing(size_t groups) const {
    const size_t vertices = (bilateral_ ? bilateral_->size() : 0) + (spatial_ ? spatial_->size() : 0);
    return double(groups * kSweep) >= kWorth * double(vertices);
}

// The lattices, and memory for their values.
void Field::build(const uint8_t *image) {
    if (spatial_) {
        if (sampled_) spatial_->choose(sampling_.chosen());
        spatial_->prepare(lanes());
    }
    if (bilateral_) {
        give_back();
        bilateral_->build(image, lanes(), kernels_, team_);
        for (Buffer<float> &values : values_) values.need(bilateral_->size() * lanes());
    }
}

// A noisy picture has many times the vertices of a calm one: its memory need not be kept for good.
void Field::give_back() {
    const size_t needed = bilateral_->size() * lanes();  // by the last picture
    if (needed * 2 > most_) {
        most_ = std::max(most_, needed);
        calm_ = 0;
    } else if (++calm_ == kCalm) {
        make_bilateral();
        for (Buffer<float> &values : values_) values = Buffer<float>();
        frozen_values_ = Buffer<float>();
        most_ = 0;
        calm_ = 0;
    }
}

// In an iteration without frozen points: of each point its vertices and its unary, of each vertex its values (the place
// lattice's once each way; the other's again for each axis).
size_t Field::bytes() const {
    const size_t record = sizeof(float) * size_t(lanes());
    size_t sum = order_.size() * record;
    if (iterates_ && spatial_) sum += order_.size() * sizeof(Vertices<2>) + 2 * spatial_->size() * record;
    if (iterates_ && bilateral_)
        sum += order_.size() * sizeof(Vertices<5>) + 2 * bilateral_->size() * record +
               bilateral_->links() * (2 * record + sizeof(int32_t));
    return sum;
}

size_t Field::sweep(bool first, bool last, Freezing freezing, float doubt, uint8_t *labels, ptrdiff_t stride,
                    float *marginals) {
    const bool freezes = freezing != Freezing::none, before = freezing == Freezing::goes_on;
    float *const to = values_[first ? 0 : 1].data(), *const frozen = freezes ? frozen_values_.data() : nullptr;
    std::atomic<size_t> found{0};
    team_.run([&](int thread) {
        Buffer<float> q;
        if (last) q.need(size_t(kTile) * kTile * lanes());
        Pass pass{};
        pass.lanes = lanes();
        pass.unary = unary_.values();
        pass.bounded = energy_.bi_w + energy_.pos_w <= kBounded;
        pass.rest = unary_.rest();
        pass.count = order_.count.empty() ? nullptr : order_.count.data();
        pass.first = first;
        pass.splat = !last;
        if (iterates_ && bilateral_) {
            pass.bilateral = bilateral_->points();
            pass.bilateral_from = values_[0].data();
            pass.bilateral_to = to;
            pass.bilateral_scale = bilateral_->after();
        }
        if (iterates_ && spatial_) {
            pass.spatial = spatial_->points();
            pass.spatial_from = spatial_->blurred();
            pass.spatial_scale = spatial_->after();
        }
        pass.doubt = doubt;
        pass.bilateral_frozen = frozen;
        pass.spatial_frozen = freezes && spatial_ ? spatial_->frozen() : nullptr;
        pass.q = last ? q.data() : nullptr;
        for (size_t t = order_.part[thread]; t < order_.part[thread + 1]; ++t) {
            pass.begin = order_.tile[t];
            pass.end = order_.tile[t + 1];
            pass.frozen = freezes ? frozen_.data() + group(t) : nullptr;
            if (!last && bilateral_) bilateral_->open_tile(t, to, frozen, before, lanes());
            if (!last && spatial_) {
                spatial_->open_tile(thread, t, freezes, before);
                pass.spatial_to = spatial_->splatted(thread);
                pass.spatial_offset = spatial_->offset(thread);
            }
            found += size_t(kernels_.pass(pass));
            if (!last && spatial_) spatial_->close_tile(thread, t);
            if (last) write(pass.begin, pass.end, q.data(), labels, stride, marginals);
        }
    });
    if (!first && !last)
        std::swap(values_[0], values_[1]);
    return found;
}

void Field::write(size_t begin, size_t end, const float *q, uint8_t *labels, ptrdiff_t stride, float *marginals) const {
    uint8_t best[kTile * kTile];
    if (labels) kernels_.best(q, int(end - begin), lanes(), best);
    if (labels && !marginals && order_.step.empty()) {
        for (size_t p = begin; p < end; ++p)
            labels[order_.row[p] * stride + order_.column[p]] = alive_[best[p - begin]];
        return;
    }
    for (size_t p = begin; p < end; ++p, q += lanes()) {
        // A point's square of pixels.
        const int step = order_.step.empty() ? 1 : order_.step[p];
        const int top = order_.row[p] / step * step, left = order_.column[p] / step * step;
        const int bottom = std::min(top + step, order_.height), right = std::min(left + step, order_.width);
        if (labels) {
            const uint8_t label = alive_[best[p - begin]];
            for (int y = top; y < bottom; ++y)
                for (int x = left; x < right; ++x) labels[y * stride + x] = label;
        }
        if (marginals)
            for (size_t k = 0; k < alive_.size(); ++k)
                for (int y = top; y < bottom; ++y)
                    for (int x = left; x < right; ++x)
                        marginals[(alive_[k] * size_t(order_.height) + y) * order_.width + x] = q[k];
    }
}

}  // namespace crf
