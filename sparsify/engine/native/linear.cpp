// The product: which tiles, which threads.
#include <algorithm>
#include <atomic>

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
    float* memory = scratch((header.columns + header.chunk) * plan.tile);
    if (!memory) {
        plan.failed = true;
        return;
    }
    plan.kernels->run(plan.task, token, count, span * plan.chunks / plan.spans,
                      (span + 1) * plan.chunks / plan.spans, memory);
}

}  // namespace
}  // namespace sparsify

using namespace sparsify;

extern "C" {

int32_t sparsify_linear(const void* packed, uint64_t bytes, uint64_t rows, uint64_t columns, uint32_t value_type,
                        const void* x, uint64_t tokens, const void* bias, uint32_t activation, void* y,
                        uint32_t threads, int32_t instructions) {
    if (value_type != FLOAT32 || activation > LAST_ACTIVATION || threads == 0) return SPARSIFY_BAD_ARGUMENT;
    if (!known(packed, bytes)) return SPARSIFY_BAD_PACKED;
    if (header_of(packed).rows != rows || header_of(packed).columns != columns) return SPARSIFY_OTHER_SHAPE;
    const Kernels* kernels = kernels_of(instructions);
    if (!kernels) return SPARSIFY_NO_KERNELS;
    if (tokens == 0) return SPARSIFY_OK;
    const Header& header = header_of(packed);
    Plan plan{};
    plan.task = {packed, static_cast<const float*>(x), static_cast<const float*>(bias), static_cast<float*>(y), tokens,
                 activation};
    plan.kernels = kernels;
    plan.tile = kernels->tile(header, tokens);
    plan.tiles = parts(tokens, plan.tile);
    plan.chunks = chunks_of(header);
    plan.spans = 1;
    if (threads > 1) plan.spans = std::min(plan.chunks, std::max<uint64_t>(1, parts(threads * TASKS_A_THREAD, plan.tiles)));
    parallel(threads, plan.tiles * plan.spans, one, &plan);
    return plan.failed ? SPARSIFY_NO_MEMORY : SPARSIFY_OK;
}

}  // extern "C"
