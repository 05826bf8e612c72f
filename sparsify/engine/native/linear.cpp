// Products and convolutions: which tiles, which threads.
#include <algorithm>
#include <atomic>
#include <initializer_list>

#include "chosen.h"
#include "engine.h"
#include "pool.h"
#include "task.h"

namespace sparsify {

bool known(const void* packed, uint64_t bytes);

namespace {

constexpr uint64_t TASKS_A_THREAD = 4;  // so that a thread that is late does not keep the others waiting

struct Plan {
    Task task;
    const Kernels* kernels;
    uint32_t tile;
    uint64_t tiles, spans, chunks;  // a task is a tile × a span of chunks
    std::atomic<bool> failed{false};
};

void one(void* context, uint64_t number) {
    Plan& plan = *static_cast<Plan*>(context);
    const Header& header = header_of(plan.task.packed);
    const uint64_t token = number / plan.spans * plan.tile, span = number % plan.spans;
    const uint32_t count = static_cast<uint32_t>(std::min<uint64_t>(plan.tile, plan.task.tokens - token));
    const uint64_t window = plan.task.images ? CHANNELS * window_of(*plan.task.images, plan.tile) : 0;
    float* memory = scratch((header.columns + header.chunk) * plan.tile + window);
    if (!memory) {
        plan.failed = true;
        return;
    }
    plan.kernels->run(plan.task, token, count, span * plan.chunks / plan.spans,
                      (span + 1) * plan.chunks / plan.spans, memory);
}

int32_t computed(const Task& task, uint64_t bytes, uint64_t rows, uint64_t columns, uint32_t value_type, uint32_t threads,
                 int32_t instructions) {
    if (value_type != FLOAT32 || task.activation > LAST_ACTIVATION || threads == 0) return SPARSIFY_BAD_ARGUMENT;
    if (!known(task.packed, bytes)) return SPARSIFY_BAD_PACKED;
    const Header& header = header_of(task.packed);
    if (header.rows != rows || header.columns != columns) return SPARSIFY_OTHER_SHAPE;
    const Kernels* kernels = kernels_of(instructions);
    if (!kernels) return SPARSIFY_NO_KERNELS;
    if (task.tokens == 0) return SPARSIFY_OK;
    Plan plan{};
    plan.task = task;
    plan.kernels = kernels;
    plan.tile = kernels->tile(header, task.tokens);
    plan.tiles = parts(task.tokens, plan.tile);
    plan.chunks = chunks_of(header);
    plan.spans = 1;
    if (threads > 1) plan.spans = std::min(plan.chunks, std::max<uint64_t>(1, parts(threads * TASKS_A_THREAD, plan.tiles)));
    parallel(threads, plan.tiles * plan.spans, one, &plan);
    return plan.failed ? SPARSIFY_NO_MEMORY : SPARSIFY_OK;
}

bool valid(const SparsifyConvolution& s) {
    constexpr int64_t most = MOST_SIDE;
    for (int64_t size : {s.channels, s.height, s.width, s.kernel_height, s.kernel_width, s.stride_height, s.stride_width,
                         s.dilation_height, s.dilation_width, s.out_height, s.out_width})
        if (size < 1 || size > most) return false;
    int64_t numbers;
    return s.images >= 0 && s.images <= most && s.top >= 0 && s.top <= most && s.left >= 0 && s.left <= most &&
           s.kernel_height <= MOST_KERNEL_HEIGHT && s.stride_width <= MOST_STRIDE_WIDTH &&
           !__builtin_mul_overflow(s.images * s.channels, s.height * s.width, &numbers) &&
           !__builtin_mul_overflow(s.channels * s.kernel_height, s.kernel_width, &numbers) &&
           !__builtin_mul_overflow(s.images, s.out_height * s.out_width, &numbers) &&
           s.kernel_width * s.dilation_width <= most;
}

// Whether it is a product for each place.
bool is_product(const SparsifyConvolution& s) {
    return s.kernel_height == 1 && s.kernel_width == 1 && s.stride_height == 1 && s.stride_width == 1 && s.top == 0 &&
           s.left == 0 && s.out_height == s.height && s.out_width == s.width;
}

}  // namespace
}  // namespace sparsify

using namespace sparsify;

extern "C" {

int32_t sparsify_linear(const void* packed, uint64_t bytes, uint64_t rows, uint64_t columns, uint32_t value_type,
                        const void* x, uint64_t tokens, const void* bias, uint32_t activation, void* y,
                        uint32_t threads, int32_t instructions) {
    const Task task{packed, static_cast<const float*>(x), static_cast<const float*>(bias), static_cast<float*>(y), tokens,
                    activation, nullptr, nullptr};
    return computed(task, bytes, rows, columns, value_type, threads, instructions);
}

int32_t sparsify_convolution(const void* packed, uint64_t bytes, uint64_t rows, uint32_t value_type,
                             const SparsifyConvolution* sizes, const void* x, const void* scale, const void* bias,
                             uint32_t activation, void* y, uint32_t threads, int32_t instructions) {
    SparsifyConvolution s = *sizes;
    if (!valid(s)) return SPARSIFY_BAD_ARGUMENT;
    if (is_product(s)) {  // rows of an image follow each other
        s.width *= s.height;
        s.out_width *= s.out_height;
        s.height = s.out_height = 1;
    }
    const Task task{packed, static_cast<const float*>(x), static_cast<const float*>(bias), static_cast<float*>(y),
                    static_cast<uint64_t>(s.images * s.out_height * s.out_width), activation, &s,
                    static_cast<const float*>(scale)};
    return computed(task, bytes, rows, s.channels * s.kernel_height * s.kernel_width, value_type, threads, instructions);
}

}  // extern "C"
