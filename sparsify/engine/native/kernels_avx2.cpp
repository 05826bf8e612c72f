// AVX2 with FMA: Haswell, Zen and later.
#if defined(__x86_64__)
#include <immintrin.h>  // before the target is set: its functions have their own
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include "task.h"
#define LANES 8
#define REGISTERS 16
#define ISA avx2
#include "kernels.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
namespace sparsify {
const Kernels avx2_kernels = {avx2::tile, avx2::run, avx2::spin, avx2::attend, avx2::tile_of_queries};
}
#endif
