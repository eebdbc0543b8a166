#include "simplex.inl"

namespace crf {

void avx2_simplices5(const Packing<5> &packing, Simplices<5> &s) { simplices<5>(packing, s); }
void avx2_simplices2(const Packing<2> &packing, Simplices<2> &s) { simplices<2>(packing, s); }

}  // namespace crf
