// Attention: a task is a tile of queries of one head.
#include <atomic>

#include "chosen.h"
#include "engine.h"
#include "pool.h"

namespace sparsify {
namespace {

constexpr uint64_t MOST_KEYS = 1 << 20, MOST_WIDTH = 1 << 12;  // so that sizes of memory are far from any limit

struct Attending {
    const SparsifyAttention& attention;
    const Kernels* kernels;
    uint64_t tiles;
    std::atomic<bool> failed{false};
};

// Floats of a tile: its queries [width, queries], scores [keys, queries] and the values [keys, width]; then what there is of
// each key for the mask: a number, whether all attend to it, bits of its queries, and of some and of all of them.
uint64_t memory_of(const SparsifyAttention& a, uint64_t queries) {
    return (a.width + a.keys) * queries + a.keys * (a.width + 2) + parts(a.keys * (queries / 8 + 2), sizeof(float));
}

void one(void* context, uint64_t number) {
    Attending& plan = *static_cast<Attending*>(context);
    const SparsifyAttention& a = plan.attention;
    const uint64_t tile = number % plan.tiles, head = number / plan.tiles % a.heads, batch = number / plan.tiles / a.heads;
    float* memory = scratch(memory_of(a, plan.kernels->queries));
    if (memory)
        plan.kernels->attend(a, batch, head, tile * plan.kernels->queries, memory);
    else
        plan.failed = true;
}

}  // namespace
}  // namespace sparsify

using namespace sparsify;

extern "C" int32_t sparsify_attention(const SparsifyAttention* asked, uint32_t threads, int32_t instructions) {
    const SparsifyAttention& a = *asked;
    if (a.value_type != FLOAT32 || threads == 0 || a.width == 0 || a.width % 4 || a.width > MOST_WIDTH || a.keys == 0 ||
        a.keys > MOST_KEYS || a.group == 0 || a.heads % a.group || !(a.scale > 0))
        return SPARSIFY_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(instructions);
    if (!kernels) return SPARSIFY_NO_KERNELS;
    Attending plan{a, kernels, parts(a.queries, kernels->queries)};
    parallel(threads, a.batch * a.heads * plan.tiles, one, &plan);
    return plan.failed ? SPARSIFY_NO_MEMORY : SPARSIFY_OK;
}
