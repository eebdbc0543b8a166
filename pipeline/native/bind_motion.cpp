// Python's way into motion/: checks, then the kernel without the GIL.
#include "arrays.hpp"
#include "bindings.hpp"
#include "motion/grid.hpp"
#include "motion/guide.hpp"

#include <algorithm>
#include <memory>
#include <optional>

#include <nanobind/stl/optional.h>

namespace {

namespace nb = nanobind;
using arrays::In;
using arrays::Out;
using arrays::refuse;
using motion::Guide;

std::shared_ptr<const Guide> make(const In &luma, int depth, int height, int width) {
    if (std::min(height, width) < motion::kSmallest || std::max(height, width) > 4096)
        refuse("guide", "sides of " + std::to_string(motion::kSmallest) + " to 4096");
    const auto run = [&](auto sample) {
        using T = decltype(sample);
        const auto from = arrays::plane<const T>(luma, "luma");
        if (depth < 8 || depth > int(8 * sizeof(T))) refuse("depth", "does not fit the samples");
        nb::gil_scoped_release unlocked;
        return std::make_shared<const Guide>(
            motion::make_guide<T>(from.data, from.stride, from.height, from.width, depth, height, width));
    };
    return luma.dtype() == nb::dtype<uint16_t>() ? run(uint16_t{}) : run(uint8_t{});
}

class PyGuide {  // nanobind's classes are not const
   public:
    PyGuide(const In &luma, int depth, int height, int width) : guide_(make(luma, depth, height, width)) {}
    const Guide &get() const { return *guide_; }

   private:
    std::shared_ptr<const Guide> guide_;
};

template <typename T, typename Array>
T *grid_plane(const Array &array, const char *name, size_t height, size_t width) {
    T *data = arrays::pointer<T>(array, name, 2, 2);
    arrays::need_shape(array, name, {height, width});
    return data;
}

template <typename T, typename Array>
T *path_of(const Array &array, const char *name, size_t height, size_t width) {
    T *data = arrays::pointer<T>(array, name, 3, 3);
    arrays::need_shape(array, name, {height, width, 2});
    return data;
}

void measure(const PyGuide &now, const PyGuide &before, double scale_y, double offset_y, double scale_x,
             double offset_x, const Out &path, const Out &trust, std::optional<Out> back_path,
             std::optional<Out> back_trust) {
    if (now.get().height() != before.get().height() || now.get().width() != before.get().width())
        refuse("guides", "differ in size");
    float *reliable = arrays::pointer<float>(trust, "trust", 2, 2);
    const size_t height = trust.shape(0), width = trust.shape(1);
    float *way = path_of<float>(path, "path", height, width);
    const motion::Grid grid{int(height), int(width), arrays::map(scale_y, offset_y, "rows"),
                            arrays::map(scale_x, offset_x, "columns")};
    if (!(scale_y > 0 && scale_x > 0)) refuse("grid", "not a rising map");
    float *back = nullptr, *back_reliable = nullptr;
    if (back_path && back_trust) {
        back = path_of<float>(*back_path, "back_path", height, width);
        back_reliable = grid_plane<float>(*back_trust, "back_trust", height, width);
    }
    nb::gil_scoped_release unlocked;
    motion::measure(now.get(), before.get(), grid, way, reliable, back, back_reliable);
}

void compose(const In &first, const In &first_trust, const In &second, const In &second_trust, const Out &path,
             const Out &trust) {
    float *reliable = arrays::pointer<float>(trust, "trust", 2, 2);
    const size_t height = trust.shape(0), width = trust.shape(1);
    float *way = path_of<float>(path, "path", height, width);
    const float *a = path_of<const float>(first, "first", height, width);
    const float *b = path_of<const float>(second, "second", height, width);
    const float *a_trust = grid_plane<const float>(first_trust, "first_trust", height, width);
    const float *b_trust = grid_plane<const float>(second_trust, "second_trust", height, width);
    nb::gil_scoped_release unlocked;
    motion::compose(int(height), int(width), a, a_trust, b, b_trust, way, reliable);
}

float *scores_like(const Out &out, const upsample::Scores &scores) {
    float *to = arrays::pointer<float>(out, "out", 3, 3);
    arrays::need_shape(out, "out", {size_t(scores.classes), size_t(scores.height), size_t(scores.width)});
    if (to == scores.data) refuse("out", "is where the scores are");
    return to;
}

void carry(const In &scores, const In &path, const Out &out) {
    const auto from = arrays::scores(scores);
    const float *way = path_of<const float>(path, "path", from.height, from.width);
    float *to = scores_like(out, from);
    nb::gil_scoped_release unlocked;
    motion::carry(from, way, to);
}

void mix(const In &scores, const In &seen, const In &path, const In &trust, const In &now, const In &now_seen,
         const Out &out, const Out &out_seen) {
    const auto from = arrays::scores(scores), there = arrays::scores(now);
    arrays::need_shape(now, "now", {size_t(from.classes), size_t(from.height), size_t(from.width)});
    const float *way = path_of<const float>(path, "path", from.height, from.width);
    const float *reliable = grid_plane<const float>(trust, "trust", from.height, from.width);
    const float *frames = grid_plane<const float>(seen, "seen", from.height, from.width);
    const float *there_frames = grid_plane<const float>(now_seen, "now_seen", from.height, from.width);
    float *to = scores_like(out, from), *to_seen = grid_plane<float>(out_seen, "out_seen", from.height, from.width);
    if (to == there.data) refuse("out", "is where the scores are");
    if (to_seen == frames || to_seen == there_frames) refuse("out_seen", "is where the frames seen are");
    nb::gil_scoped_release unlocked;
    motion::mix(from, frames, way, reliable, there.data, there_frames, to, to_seen);
}

void between(const In &earlier, const In &path, const In &trust, const In &later, const In &later_path,
             const In &later_trust, float share, const Out &out) {
    const auto from = arrays::scores(earlier), after = arrays::scores(later);
    arrays::need_shape(later, "later", {size_t(from.classes), size_t(from.height), size_t(from.width)});
    const float *way = path_of<const float>(path, "path", from.height, from.width);
    const float *later_way = path_of<const float>(later_path, "later_path", from.height, from.width);
    const float *reliable = grid_plane<const float>(trust, "trust", from.height, from.width);
    const float *later_reliable = grid_plane<const float>(later_trust, "later_trust", from.height, from.width);
    float *to = scores_like(out, from);
    if (to == after.data) refuse("out", "is where the scores are");
    if (!(share >= 0 && share <= 1)) refuse("share", "not 0 to 1");
    nb::gil_scoped_release unlocked;
    motion::between(from, way, reliable, after, later_way, later_reliable, share, to);
}

}  // namespace

void bind_motion(nb::module_ &m) {
    using namespace nb::literals;
    nb::class_<PyGuide>(m, "MotionGuide")
        .def(nb::init<const In &, int, int, int>(), "luma"_a.noconvert(), "depth"_a, "height"_a, "width"_a);
    m.def("measure_motion", &measure, "now"_a, "before"_a, "scale_y"_a, "offset_y"_a, "scale_x"_a, "offset_x"_a,
          "path"_a.noconvert(), "trust"_a.noconvert(), "back_path"_a.noconvert() = nb::none(),
          "back_trust"_a.noconvert() = nb::none());
    m.def("compose_paths", &compose, "first"_a.noconvert(), "first_trust"_a.noconvert(), "second"_a.noconvert(),
          "second_trust"_a.noconvert(), "path"_a.noconvert(), "trust"_a.noconvert());
    m.def("carry_scores", &carry, "scores"_a.noconvert(), "path"_a.noconvert(), "out"_a.noconvert());
    m.def("mix_scores", &mix, "scores"_a.noconvert(), "seen"_a.noconvert(), "path"_a.noconvert(),
          "trust"_a.noconvert(), "now"_a.noconvert(), "now_seen"_a.noconvert(), "out"_a.noconvert(),
          "out_seen"_a.noconvert());
    m.def("between_scores", &between, "earlier"_a.noconvert(), "path"_a.noconvert(), "trust"_a.noconvert(),
          "later"_a.noconvert(), "later_path"_a.noconvert(), "later_trust"_a.noconvert(), "share"_a,
          "out"_a.noconvert());
}
