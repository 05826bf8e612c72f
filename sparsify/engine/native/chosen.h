// Which kernels, and memory for them.
#pragma once
#include "task.h"

namespace sparsify {

// The kernels of an instruction set (`SparsifyInstructions`); null where this processor lacks it.
const Kernels* kernels_of(int32_t instructions);

// Memory of this thread that the next call uses again, 64-byte aligned; null where there is none to be had.
float* scratch(uint64_t floats);

}  // namespace sparsify
