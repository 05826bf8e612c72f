// AVX-512: Skylake-X, Ice Lake, Zen 4 and later.
#if defined(__x86_64__)
#include <immintrin.h>  // before the target is set: its functions have their own
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "task.h"
#define LANES 16
#define REGISTERS 32
#define ISA avx512
#include "kernels.inl"
#if defined(__clang__)
#pragma clang attribute pop
#endif
namespace sparsify {
const Kernels avx512_kernels = {avx512::tile, avx512::run, avx512::spin, avx512::attend, avx512::tile_of_queries};
}
#endif
