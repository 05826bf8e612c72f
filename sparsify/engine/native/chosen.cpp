// Which kernels this processor can run, how fast it is at best, and memory for kernels.
#include "chosen.h"

#include <atomic>
#include <cstdlib>
#include <memory>

#include "engine.h"
#include "pool.h"

namespace sparsify {
namespace {

int32_t best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return SPARSIFY_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SPARSIFY_AVX2;
#endif
    return SPARSIFY_PORTABLE;
}

}  // namespace

const Kernels* kernels_of(int32_t instructions) {
    static const int32_t most = best();
    if (instructions == SPARSIFY_BEST) instructions = most;
    if (instructions < SPARSIFY_PORTABLE || instructions > most) return nullptr;
#if defined(__x86_64__)
    if (instructions == SPARSIFY_AVX512) return &avx512_kernels;
    if (instructions == SPARSIFY_AVX2) return &avx2_kernels;
#endif
    return &portable_kernels;
}

namespace {

struct Free {
    void operator()(float* what) const { std::free(what); }
};

}  // namespace

float* scratch(uint64_t floats) {
    thread_local std::unique_ptr<float, Free> held;
    thread_local uint64_t size = 0;
    if (size < floats) {
        held.reset();
        size = 0;
        void* made = nullptr;
        if (posix_memalign(&made, ALIGNMENT, aligned(floats * sizeof(float)))) return nullptr;
        held.reset(static_cast<float*>(made));
        size = floats;
    }
    return held.get();
}

namespace {

struct Spin {
    const Kernels* kernels;
    uint64_t rounds;
    std::atomic<uint64_t> operations{0};
};

void spin(void* context, uint64_t) {
    Spin& spin = *static_cast<Spin*>(context);
    spin.operations += spin.kernels->spin(spin.rounds);
}

}  // namespace
}  // namespace sparsify

using namespace sparsify;

extern "C" {

#ifndef SPARSIFY_SOURCES
#define SPARSIFY_SOURCES ""
#endif

int32_t sparsify_interface(void) { return 3; }

const char* sparsify_sources(void) { return SPARSIFY_SOURCES; }

int32_t sparsify_instructions(void) { return best(); }

int64_t sparsify_spin(uint64_t rounds, uint32_t threads, int32_t instructions) {
    const Kernels* kernels = kernels_of(instructions);
    if (threads == 0) return SPARSIFY_BAD_ARGUMENT;
    if (!kernels) return SPARSIFY_NO_KERNELS;
    Spin work{kernels, rounds};
    parallel(threads, threads, spin, &work);
    return static_cast<int64_t>(work.operations);
}

}  // extern "C"
