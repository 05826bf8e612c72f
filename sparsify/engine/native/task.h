// What a kernel is asked to do, and the table of the kernels of one instruction set.
#pragma once
#include "layout.h"

namespace sparsify {

enum Activation : uint32_t { NONE = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SILU = 4, LAST_ACTIVATION = SILU };

// y [tokens, rows] = activation(x [tokens, columns] · Wᵀ + bias [rows]), all of float32 and contiguous.
struct Task {
    const void* packed;
    const float* x;
    const float* bias;  // may be null
    float* y;
    uint64_t tokens;
    uint32_t activation;
};

// out = softmax(scale · q kᵀ) v, each [batch, heads, queries or keys, width] of float32. Strides are floats, of the first
// three sizes; the last one is contiguous.
struct Attention {
    const float *q, *k, *v;
    float* out;
    uint64_t batch, heads, queries, keys, width;
    int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3];
    float scale;
};

struct Kernels {
    // How many tokens are computed together where `left` are; the widest there is where they are more.
    uint32_t (*tile)(const Header& header, uint64_t left);
    // Computes `count` tokens, a tile at most, for the chunks from `first` to before `last`.
    // `scratch` holds (columns + chunk) × tile floats, 64-byte aligned.
    void (*run)(const Task& task, uint64_t token, uint32_t count, uint64_t first, uint64_t last, float* scratch);
    // Multiplies and adds in registers alone, as fast as the processor can; returns how many operations that were.
    uint64_t (*spin)(uint64_t rounds);
    // Computes one tile of queries of a head, from `query` on. `scratch` as attention.inl says, 64-byte aligned.
    void (*attend)(const Attention& attention, uint64_t batch, uint64_t head, uint64_t query, float* scratch);
    uint32_t queries;  // of a tile
};

extern const Kernels avx512_kernels, avx2_kernels, portable_kernels;

}  // namespace sparsify
