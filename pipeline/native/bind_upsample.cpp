// Python's way into upsample.hpp: checks, then the kernel without the GIL.
#include <algorithm>

#include <nanobind/stl/optional.h>

#include "arrays.hpp"
#include "bindings.hpp"
#include "upsample.hpp"

namespace {

namespace nb = nanobind;
using arrays::In;
using arrays::Out;
using arrays::refuse;

void argmax(const In &scores, double scale_y, double offset_y, double scale_x, double offset_x, const Out &out,
            const Out &counts, int begin, int end, const std::optional<In> &before, const std::optional<In> &margin,
            const std::optional<In> &ahead) {
    const auto from = arrays::scores(scores);
    const auto y = arrays::map(scale_y, offset_y, "rows"), x = arrays::map(scale_x, offset_x, "columns");
    const auto to = arrays::plane<uint8_t>(out, "out");
    int64_t *pixels = arrays::pointer<int64_t>(counts, "counts", 1, 1);
    arrays::need_shape(counts, "counts", {size_t(from.classes)});
    if (begin < 0 || begin > end || end > to.height) refuse("rows", "not within out");
    std::optional<upsample::Before> held;
    if (before) {
        const auto labels = arrays::plane<const uint8_t>(*before, "before");
        arrays::need_shape(*before, "before", {size_t(to.height), size_t(to.width)});
        if (!margin) refuse("margin", "is missing");
        const float *least = arrays::pointer<const float>(*margin, "margin", 2, 2);
        arrays::need_shape(*margin, "margin", {size_t(from.height), size_t(from.width)});
        if (!std::all_of(least, least + size_t(from.height) * from.width, [](float m) { return m >= 0 && m <= 1e30f; }))
            refuse("margin", "is negative or not finite");
        const float *next = nullptr;
        if (ahead) {
            next = arrays::scores(*ahead).data;
            arrays::need_shape(*ahead, "ahead", {size_t(from.classes), size_t(from.height), size_t(from.width)});
        }
        held = {labels.row(begin), labels.stride, least, next};
    }
    bool finite;
    {
        nb::gil_scoped_release unlocked;
        finite = upsample::argmax(from, y, x, begin, end, to.width, to.row(begin), to.stride, pixels,
                                  held ? &*held : nullptr);
    }
    if (!finite) throw nb::value_error(arrays::kNotFinite);
}

void winners(const In &scores, const Out &out) {
    const auto from = arrays::scores(scores);
    uint8_t *to = arrays::pointer<uint8_t>(out, "out", 2, 2);
    arrays::need_shape(out, "out", {size_t(from.height), size_t(from.width)});
    bool finite;
    {
        nb::gil_scoped_release unlocked;
        finite = upsample::winners(from, to);
    }
    if (!finite) throw nb::value_error(arrays::kNotFinite);
}

void count(const In &labels, const Out &counts) {
    const auto from = arrays::plane<const uint8_t>(labels, "labels");
    int64_t *to = arrays::pointer<int64_t>(counts, "counts", 1, 1);
    arrays::need_shape(counts, "counts", {256});
    nb::gil_scoped_release unlocked;
    upsample::count(from.data, from.stride, from.height, from.width, to);
}

}  // namespace

void bind_upsample(nb::module_ &m) {
    using namespace nb::literals;
    m.def("upsample_argmax", &argmax, "scores"_a.noconvert(), "scale_y"_a, "offset_y"_a, "scale_x"_a, "offset_x"_a,
          "out"_a.noconvert(), "counts"_a.noconvert(), "begin"_a, "end"_a,
          "before"_a.noconvert() = nb::none(), "margin"_a.noconvert() = nb::none(), "ahead"_a.noconvert() = nb::none());
    m.def("count_labels", &count, "labels"_a.noconvert(), "counts"_a.noconvert());
    m.def("coarse_winners", &winners, "scores"_a.noconvert(), "out"_a.noconvert());
}
