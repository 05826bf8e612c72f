// Threads that wait for work. One pool a process; a forked child gets a new one.
#pragma once
#include <cstdint>

namespace sparsify {

using Work = void (*)(void* context, uint64_t task);

// Calls work(context, 0 … tasks - 1), each once, on up to `threads` threads, the caller's among them; returns when all
// are done. A second caller at the same time does its tasks alone. `work` must not throw.
void parallel(unsigned threads, uint64_t tasks, Work work, void* context);

}  // namespace sparsify
