// What every processor of the platform has: SSE2 on x86-64, NEON on AArch64.
#include "task.h"
#define LANES 4
#define REGISTERS (sizeof(void*) == 8 ? 16 : 8)
#define ISA portable
#include "kernels.inl"
namespace sparsify {
const Kernels portable_kernels = {portable::tile, portable::run, portable::spin, portable::attend, portable::tile_of_queries};
}
