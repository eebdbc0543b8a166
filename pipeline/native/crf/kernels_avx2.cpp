#include "kernels.inl"

namespace crf {

const Kernels &avx2_kernels() {
    static const Kernels kernels{lanes, avx2_simplices5, avx2_simplices2, blur,
                                 blur_run, pass, best_lanes, unary};
    return kernels;
}

}  // namespace crf
