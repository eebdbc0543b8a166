// Python's way into guided.hpp: checks, then the kernel without the GIL.
#include "arrays.hpp"
#include "bindings.hpp"
#include "guided.hpp"

#include <mutex>

namespace {

namespace nb = nanobind;
using arrays::In;
using arrays::Out;
using arrays::refuse;

// Keeps the filter's memory between pictures; threads that share one wait for each other.
class Filter {
   public:
    void labels(const In &image, const In &scores, double scale_y, double offset_y, double scale_x, double offset_x,
                double per_cell_y, double per_cell_x, int radius, int reach, double epsilon, const Out &out) {
        const size_t axes = image.ndim();
        if (axes != 2 && axes != 3) refuse("image", "needs H×W or H×W×3");
        const uint8_t *levels = arrays::pointer<const uint8_t>(image, "image", axes, axes - 1);
        if (axes == 3 && image.shape(2) != 3) refuse("image", "needs three channels, or none");
        const auto to = arrays::plane<uint8_t>(out, "out");
        arrays::need_shape(out, "out", {image.shape(0), image.shape(1)});
        const auto from = arrays::scores(scores);
        const auto y = arrays::map(scale_y, offset_y, "rows"), x = arrays::map(scale_x, offset_x, "columns");
        // A square is at least a pixel, or some would be empty.
        if (!(per_cell_y > 0 && per_cell_y * scale_y <= 1 && per_cell_x > 0 && per_cell_x * scale_x <= 1) ||
            per_cell_y > 65535 || per_cell_x > 65535)
            refuse("squares a cell", "out of range");
        if (radius < 0 || radius > 4096 || reach < 0 || reach > 4096)
            refuse("radius or reach", "out of range");
        if (!(epsilon > 0) || epsilon > 1e6) refuse("epsilon", "must be positive");
        const guided::Guide guide{levels, image.stride(0), to.height, to.width, axes == 3 ? 3 : 1};
        bool finite;
        {
            nb::gil_scoped_release unlocked;
            const std::lock_guard<std::mutex> alone(busy_);
            finite = guided::labels(guide, from, y, x, {per_cell_y, per_cell_x, radius, reach, float(epsilon)}, to.data, to.stride,
                                    memory_);
        }
        if (!finite) throw nb::value_error(arrays::kNotFinite);
    }

   private:
    std::mutex busy_;
    guided::Memory memory_;
};

}  // namespace

void bind_guided(nb::module_ &m) {
    using namespace nb::literals;
    nb::class_<Filter>(m, "GuidedFilter")
        .def(nb::init<>())
        .def("labels", &Filter::labels, "image"_a.noconvert(), "scores"_a.noconvert(), "scale_y"_a, "offset_y"_a,
             "scale_x"_a, "offset_x"_a, "per_cell_y"_a, "per_cell_x"_a, "radius"_a, "reach"_a, "epsilon"_a, "out"_a.noconvert());
}
