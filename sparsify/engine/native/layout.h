// The packed form of a weight matrix [rows, columns]: what the kernels read.
//
// Rows come in groups of `height` (1: unstructured; 2, 4: rows that share their columns), groups in chunks whose sums
// fit the cache, columns in blocks whose inputs do. A *panel* is one chunk × one block. In it, a *segment* is what one
// group has there: some columns (one byte each, counted within the block) and `height` values for each of them. Segments
// are sorted by their number of columns; a *run* is those with equally many, so that loops end where the processor
// expects it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sparsify {

constexpr uint64_t MAGIC = 0x3157594653525053;  // "SPRSFYW1", little-endian
constexpr uint32_t FLOAT32 = 0;                 // a value type; int8 and bfloat16 may follow
constexpr uint64_t ALIGNMENT = 64;
constexpr uint32_t MOST_BLOCK = 256;   // columns of a block: an index is one byte
constexpr uint32_t MOST_CHUNK = 4096;  // rows of a chunk
constexpr uint64_t MOST_SIDE = 1u << 30;

struct Header {
    uint64_t magic;
    uint32_t value_type;
    uint32_t height;  // rows of a group: 1, 2 or 4
    uint32_t block;   // columns of a block
    uint32_t chunk;   // rows of a chunk, a multiple of the height
    uint64_t rows, columns;
    uint64_t entries;   // columns of all segments; each has `height` values
    uint64_t bytes;     // of the whole buffer
    uint64_t checksum;  // of everything else
};
static_assert(sizeof(Header) == ALIGNMENT, "panels follow the header");

struct Panel {
    uint64_t runs_at, groups_at, columns_at, values_at;  // bytes from the beginning of the buffer
    uint32_t runs, segments, entries, unused;
};

struct Run {
    uint16_t count;     // columns of each segment
    uint16_t segments;  // how many there are
};

static constexpr uint64_t aligned(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }
static constexpr uint64_t parts(uint64_t whole, uint64_t size) { return (whole + size - 1) / size; }

// `static`: a copy that was compiled for AVX-512 must not become everybody's.
template <class T>
static inline const T* at(const void* packed, uint64_t offset) {
    return reinterpret_cast<const T*>(static_cast<const char*>(packed) + offset);
}
static inline const Header& header_of(const void* packed) { return *static_cast<const Header*>(packed); }
static inline const Panel* panels_of(const void* packed) { return at<Panel>(packed, sizeof(Header)); }
static inline uint64_t chunks_of(const Header& header) { return parts(header.rows, header.chunk); }
static inline uint64_t blocks_of(const Header& header) { return parts(header.columns, header.block); }

}  // namespace sparsify
