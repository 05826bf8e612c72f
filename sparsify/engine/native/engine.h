// The C interface. Every function returns 0 (or a count), or one of the errors below; none throws, none prints.
#pragma once
#include <stdint.h>

#define SPARSIFY_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum SparsifyError {
    SPARSIFY_OK = 0,
    SPARSIFY_BAD_ARGUMENT = -1,  // a size, a height, a type or an activation that there is not
    SPARSIFY_BAD_MATRIX = -2,    // rows that do not ascend, or a column outside
    SPARSIFY_BAD_PACKED = -3,    // a packed buffer that is damaged, or is none
    SPARSIFY_NO_MEMORY = -4,
    SPARSIFY_NO_KERNELS = -5,   // this processor lacks the instruction set
    SPARSIFY_OTHER_SHAPE = -6,  // a packed matrix of other sizes than the product
};
enum SparsifyValueType { SPARSIFY_FLOAT32 = 0 };
enum SparsifyInstructions { SPARSIFY_BEST = 0, SPARSIFY_PORTABLE = 1, SPARSIFY_AVX2 = 2, SPARSIFY_AVX512 = 3 };

SPARSIFY_API int32_t sparsify_interface(void);    // the version of this interface
SPARSIFY_API const char* sparsify_sources(void);  // a hash of the sources that it was compiled from
SPARSIFY_API int32_t sparsify_instructions(void);  // the best that this processor has

// A matrix by rows: `starts` [rows + 1], `columns` and `values` [starts[rows]]; columns ascend within a row.
// Returns the bytes of its packed form.
SPARSIFY_API int64_t sparsify_packed_bytes(uint64_t rows, uint64_t columns, const int64_t* starts,
                                           const int32_t* indices, uint32_t height);
SPARSIFY_API int32_t sparsify_pack(uint64_t rows, uint64_t columns, const int64_t* starts, const int32_t* indices,
                                   const void* values, uint32_t value_type, uint32_t height, void* packed,
                                   uint64_t bytes);

// Looks at every number in a packed buffer that the kernels would trust, and at its checksum.
SPARSIFY_API int32_t sparsify_check(const void* packed, uint64_t bytes);

// Writes the dense matrix [rows, columns], in the type of the values.
SPARSIFY_API int32_t sparsify_unpack(const void* packed, uint64_t bytes, void* dense);

// y [tokens, rows] = activation(x [tokens, columns] · Wᵀ + bias [rows]); `bias` may be null. The buffer must have passed
// sparsify_check once: here only its header is looked at. The numbers do not depend on `threads`.
SPARSIFY_API int32_t sparsify_linear(const void* packed, uint64_t bytes, uint64_t rows, uint64_t columns,
                                     uint32_t value_type, const void* x, uint64_t tokens, const void* bias,
                                     uint32_t activation, void* y, uint32_t threads, int32_t instructions);

// out = softmax(scale · q kᵀ) v, each [batch, heads, queries or keys, width] of float32; `width` is a multiple of 4, `scale`
// above 0. Strides count floats, of the first three sizes; the last one is contiguous. Nothing may overlap `out`. What a query
// does not attend to has no part in it; a query that attends to nothing gets zeros.
struct SparsifyAttention {
    const void *q, *k, *v;
    void* out;
    const uint8_t* mask;  // [batch, heads, queries, keys], not 0 where a query attends to a key; null: to all
    uint64_t batch, heads, queries, keys, width;
    uint64_t group;  // heads that share one of k and v, one after another; it divides `heads`
    int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3];
    int64_t mask_stride[4];  // bytes; each may be 0
    float scale;
    uint32_t value_type;
    uint32_t causal;  // not 0: query i attends to keys 0 … i alone
};
SPARSIFY_API int32_t sparsify_attention(const struct SparsifyAttention* asked, uint32_t threads, int32_t instructions);

// Multiplies and adds in registers alone on each of `threads` threads, `rounds` times, as fast as the processor can: what
// products are compared with. Returns how many operations all of them did, a multiplication with its addition as two.
SPARSIFY_API int64_t sparsify_spin(uint64_t rounds, uint32_t threads, int32_t instructions);

// A convolution's sizes: images [images, channels, height, width] become [images, rows, out_height, out_width]; `top` and
// `left` are rows and columns of padding. The columns of its weight are [channels, kernel_height, kernel_width].
struct SparsifyConvolution {
    int64_t images, channels, height, width, kernel_height, kernel_width, stride_height, stride_width, top, left,
        dilation_height, dilation_width, out_height, out_width;
};

// y = activation(convolution of x · scale [rows] + bias [rows]); `scale` and `bias` may be null. What the kernel reads
// outside of an image is zero. Otherwise as sparsify_linear. Kernels of more than 16 rows, and strides of more than 64
// columns, are bad arguments.
SPARSIFY_API int32_t sparsify_convolution(const void* packed, uint64_t bytes, uint64_t rows, uint32_t value_type,
                                          const struct SparsifyConvolution* sizes, const void* x, const void* scale,
                                          const void* bias, uint32_t activation, void* y, uint32_t threads,
                                          int32_t instructions);

#ifdef __cplusplus
}
#endif
