#include "kernels.inl"

namespace crf {

const Kernels &avx512_kernels() {
    static const Kernels kernels{lanes, avx512_simplices5, avx512_simplices2, blur,
                                 blur_run, pass, best_lanes, unary};
    return kernels;
}

}  // namespace crf
