// What a kernel is asked to do, and the table of the kernels of one instruction set.
#pragma once
#include "engine.h"
#include "layout.h"

namespace sparsify {

enum Activation : uint32_t { NONE = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SILU = 4, LAST_ACTIVATION = SILU };

constexpr uint32_t MOST_LANES = 64;
constexpr int64_t MOST_KERNEL_HEIGHT = 16, MOST_STRIDE_WIDTH = 64;
constexpr int64_t CHANNELS = 4;  // that are read into a window at a time

// y [tokens, rows] = activation(x [tokens, columns] · Wᵀ + bias [rows]), all of float32 and contiguous; or, where there
// are `images`, of them, and a token is a place of the outputs.
struct Task {
    const void* packed;
    const float* x;
    const float* bias;  // may be null
    float* y;
    uint64_t tokens;
    uint32_t activation;
    const SparsifyConvolution* images;  // null: x are tokens
    const float* scale;                 // of each row of images, before the bias; may be null
};

// How many floats, a stride apart, a kernel reads beyond the first.
static inline uint64_t reach_of(const SparsifyConvolution& s) {
    return (s.kernel_width - 1) * s.dilation_width / s.stride_width;
}

// Floats of a window: the rows of one channel that a tile reads. There are CHANNELS of them.
static inline uint64_t window_of(const SparsifyConvolution& s, uint64_t tile) {
    const uint64_t rows = parts(tile, s.out_width) + 1;
    return s.kernel_height * s.stride_width * (tile + rows * reach_of(s)) + MOST_LANES;
}

struct Kernels {
    // How many tokens are computed together where `left` are; the widest there is where they are more.
    uint32_t (*tile)(const Header& header, uint64_t left);
    // Computes `count` tokens, a tile at most, for the chunks from `first` to before `last`.
    // `scratch` holds (columns + chunk) × tile floats, 64-byte aligned, and windows after them where there are images.
    void (*run)(const Task& task, uint64_t token, uint32_t count, uint64_t first, uint64_t last, float* scratch);
    // Multiplies and adds in registers alone, as fast as the processor can; returns how many operations that were.
    uint64_t (*spin)(uint64_t rounds);
    // Computes one tile of queries of a head, from `query` on. `scratch` as attention.cpp says, 64-byte aligned.
    void (*attend)(const SparsifyAttention& attention, uint64_t batch, uint64_t head, uint64_t query, float* scratch);
    uint32_t queries;  // of a tile
};

extern const Kernels avx512_kernels, avx2_kernels, portable_kernels;

}  // namespace sparsify
