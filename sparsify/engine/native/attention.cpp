// Attention: a task is a tile of queries of one head.
#include <atomic>

#include "chosen.h"
#include "engine.h"
#include "pool.h"

namespace sparsify {
namespace {

constexpr uint64_t MOST_KEYS = 1 << 20, MOST_WIDTH = 1 << 12;  // so that sizes of memory are far from any limit

struct Attending {
    Attention attention;
    const Kernels* kernels;
    uint64_t tiles;
    std::atomic<bool> failed{false};
};

void one(void* context, uint64_t number) {
    Attending& plan = *static_cast<Attending*>(context);
    const Attention& a = plan.attention;
    const uint64_t tile = number % plan.tiles, head = number / plan.tiles % a.heads, batch = number / plan.tiles / a.heads;
    float* memory = scratch((a.width + a.keys) * plan.kernels->queries + a.keys * a.width);
    if (memory)
        plan.kernels->attend(a, batch, head, tile * plan.kernels->queries, memory);
    else
        plan.failed = true;
}

}  // namespace
}  // namespace sparsify

using namespace sparsify;

extern "C" int32_t sparsify_attention(const SparsifyAttention* asked, uint32_t threads, int32_t instructions) {
    const SparsifyAttention& s = *asked;
    if (s.value_type != FLOAT32 || threads == 0 || s.width == 0 || s.width % 4 || s.width > MOST_WIDTH || s.keys == 0 ||
        s.keys > MOST_KEYS || !(s.scale > 0))
        return SPARSIFY_BAD_ARGUMENT;
    const Kernels* kernels = kernels_of(instructions);
    if (!kernels) return SPARSIFY_NO_KERNELS;
    Attending plan{};
    Attention& a = plan.attention;
    a.q = static_cast<const float*>(s.q);
    a.k = static_cast<const float*>(s.k);
    a.v = static_cast<const float*>(s.v);
    a.out = static_cast<float*>(s.out);
    a.batch = s.batch, a.heads = s.heads, a.queries = s.queries, a.keys = s.keys, a.width = s.width;
    for (int i = 0; i < 3; ++i) {
        a.q_stride[i] = s.q_stride[i], a.k_stride[i] = s.k_stride[i];
        a.v_stride[i] = s.v_stride[i], a.out_stride[i] = s.out_stride[i];
    }
    a.scale = s.scale;
    plan.kernels = kernels;
    plan.tiles = parts(a.queries, kernels->queries);
    parallel(threads, a.batch * a.heads * plan.tiles, one, &plan);
    return plan.failed ? SPARSIFY_NO_MEMORY : SPARSIFY_OK;
}
