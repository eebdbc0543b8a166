#include "kernels.inl"
#include "simplex.inl"

namespace crf {

const Kernels &avx512_kernels() {
    static const Kernels kernels{"avx512", simplices5, simplices2, blur, blur_apart, pass, unary};
    return kernels;
}

}  // namespace crf
