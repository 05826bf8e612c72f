// A stand-alone program that runs the engine without Python, for the sanitizers: every kernel on awkward shapes against a
// slow reference, damaged buffers, threads, forks. `make engine-test` compiles it with the engine's sources.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "engine.h"

namespace {

int failures = 0;

#define EXPECT(what)                                                        \
    do {                                                                    \
        if (!(what)) {                                                      \
            std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #what);  \
            ++failures;                                                     \
        }                                                                   \
    } while (0)

struct Freed {
    void operator()(void* what) const { std::free(what); }
};

// Memory of exactly so many bytes, so that the sanitizer sees a step beyond.
struct Buffer {
    std::unique_ptr<char, Freed> memory;
    uint64_t bytes = 0;
    explicit Buffer(uint64_t size, uint64_t alignment = 64)
        : memory(static_cast<char*>(std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment))),
          bytes(size) {}
};

struct Matrix {
    uint64_t rows, columns;
    std::vector<float> dense, values;
    std::vector<int64_t> starts{0};
    std::vector<int32_t> indices;

    Matrix(uint64_t r, uint64_t c, double density, std::mt19937& random) : rows(r), columns(c), dense(r * c) {
        std::uniform_real_distribution<double> uniform(0, 1);
        std::normal_distribution<float> normal;
        for (float& each : dense)
            if (uniform(random) < density) each = normal(random);
        for (uint64_t row = 0; row < r; ++row) {
            for (uint64_t k = 0; k < c; ++k)
                if (dense[row * c + k] != 0) {
                    indices.push_back(static_cast<int32_t>(k));
                    values.push_back(dense[row * c + k]);
                }
            starts.push_back(static_cast<int64_t>(indices.size()));
        }
    }

    Buffer packed(uint32_t height) const {
        const int64_t size = sparsify_packed_bytes(rows, columns, starts.data(), indices.data(), height);
        EXPECT(size > 0);
        Buffer out(static_cast<uint64_t>(size));
        EXPECT(sparsify_pack(rows, columns, starts.data(), indices.data(), values.data(), SPARSIFY_FLOAT32, height,
                             out.memory.get(), out.bytes) == SPARSIFY_OK);
        EXPECT(sparsify_check(out.memory.get(), out.bytes) == SPARSIFY_OK);
        return out;
    }
};

std::vector<float> product(const Matrix& m, const Buffer& packed, const std::vector<float>& x, uint64_t tokens,
                           const float* bias, uint32_t threads, int32_t instructions, uint32_t activation = 0) {
    std::vector<float> y(tokens * m.rows, std::numeric_limits<float>::quiet_NaN());
    EXPECT(sparsify_linear(packed.memory.get(), packed.bytes, m.rows, m.columns, SPARSIFY_FLOAT32, x.data(), tokens, bias,
                           activation, y.data(), threads, instructions) == SPARSIFY_OK);
    return y;
}

std::vector<float> noise(uint64_t count, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> made(count);
    for (float& each : made) each = normal(random);
    return made;
}

double activated(double x, uint32_t activation) {
    switch (activation) {
        case 1:
            return x < 0 ? 0 : x;
        case 2:
            return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
        case 3:
            return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
        case 4:
            return x / (1 + std::exp(-x));
        default:
            return x;
    }
}

void shapes(int32_t instructions) {
    std::mt19937 random(1);
    const uint64_t sizes[][2] = {{1, 1}, {3, 5}, {17, 129}, {64, 128}, {259, 193}, {513, 70}};
    for (const auto& size : sizes)
        for (double density : {0.0, 0.07, 0.5, 1.0}) {
            const Matrix m(size[0], size[1], density, random);
            const std::vector<float> bias = noise(m.rows, random);
            for (uint32_t height : {1u, 2u, 4u}) {
                const Buffer packed = m.packed(height);
                std::vector<float> back(m.dense.size());
                EXPECT(sparsify_unpack(packed.memory.get(), packed.bytes, back.data()) == SPARSIFY_OK);
                EXPECT(back == m.dense);
                for (uint64_t tokens : {1, 4, 7, 16, 33, 48, 64, 67, 130}) {
                    const std::vector<float> x = noise(tokens * m.columns, random);
                    const uint32_t activation = static_cast<uint32_t>(tokens % 5);
                    const std::vector<float> y = product(m, packed, x, tokens, bias.data(), 1, instructions, activation);
                    for (uint64_t t = 0; t < tokens; ++t)
                        for (uint64_t r = 0; r < m.rows; ++r) {
                            double sum = bias[r], size_of_sum = std::fabs(sum);
                            for (uint64_t k = 0; k < m.columns; ++k) {
                                const double term = double{m.dense[r * m.columns + k]} * x[t * m.columns + k];
                                sum += term;
                                size_of_sum += std::fabs(term);
                            }
                            const double error = std::fabs(activated(sum, activation) - y[t * m.rows + r]);
                            if (!(error <= 2e-6 * (1 + size_of_sum))) {
                                std::printf("%llu × %llu, height %u, %llu tokens, activation %u: off by %g\n",
                                            (unsigned long long)m.rows, (unsigned long long)m.columns, height,
                                            (unsigned long long)tokens, activation, error);
                                ++failures;
                                return;
                            }
                        }
                }
            }
        }
}

// Convolutions of awkward sizes: padding, strides, dilation, ragged tiles that end within a row or an image.
void convolutions(int32_t instructions) {
    std::mt19937 random(4);
    const SparsifyConvolution sizes[] = {
        {3, 4, 14, 14, 1, 1, 1, 1, 0, 0, 1, 1, 14, 14}, {2, 3, 7, 9, 3, 3, 1, 1, 1, 1, 1, 1, 7, 9},
        {2, 5, 16, 17, 3, 3, 2, 2, 1, 1, 1, 1, 8, 9},   {1, 2, 9, 70, 5, 3, 1, 2, 2, 1, 2, 3, 5, 33},
        {17, 6, 5, 5, 5, 5, 1, 1, 0, 0, 1, 1, 1, 1},    {1, 3, 1, 100, 1, 9, 1, 3, 0, 4, 1, 1, 1, 34},
        {2, 2, 2, 1, 3, 3, 1, 1, 4, 4, 1, 1, 8, 7},     {3, 2, 6, 6, 2, 2, 1, 1, 0, 0, 1, 1, 5, 5},
        {1, 1, 40, 40, 16, 2, 5, 64, 1, 1, 1, 1, 6, 1}, {1, 70, 9, 9, 1, 1, 2, 2, 0, 0, 1, 1, 5, 5},
    };
    for (const SparsifyConvolution& s : sizes) {
        const uint64_t columns = s.channels * s.kernel_height * s.kernel_width, places = s.out_height * s.out_width;
        const std::vector<float> x = noise(s.images * s.channels * s.height * s.width, random);
        for (uint64_t rows : {uint64_t{5}, uint64_t{270}}) {
            const Matrix m(rows, columns, 0.3, random);
            const std::vector<float> scale = noise(rows, random), bias = noise(rows, random);
            std::vector<double> wanted(s.images * rows * places), size(wanted.size());
            for (uint64_t i = 0; i < wanted.size(); ++i) {
                const int64_t image = i / places / rows, row = i / places % rows, place = i % places;
                double sum = 0, absolute = 0;
                for (uint64_t k = 0; k < columns; ++k) {
                    const int64_t c = k / (s.kernel_height * s.kernel_width);
                    const int64_t in_y = place / s.out_width * s.stride_height - s.top +
                                         static_cast<int64_t>(k) / s.kernel_width % s.kernel_height * s.dilation_height;
                    const int64_t in_x = place % s.out_width * s.stride_width - s.left +
                                         static_cast<int64_t>(k) % s.kernel_width * s.dilation_width;
                    if (in_y < 0 || in_y >= s.height || in_x < 0 || in_x >= s.width) continue;
                    const double term = double{m.dense[row * columns + k]} *
                                        x[((image * s.channels + c) * s.height + in_y) * s.width + in_x];
                    sum += term;
                    absolute += std::fabs(term);
                }
                wanted[i] = std::fmax(0, sum * scale[row] + bias[row]);
                size[i] = absolute * std::fabs(scale[row]) + std::fabs(bias[row]);
            }
            for (uint32_t height : {1u, 4u})
                for (uint32_t threads : {1u, 3u}) {
                    const Buffer packed = m.packed(height);
                    std::vector<float> y(wanted.size(), std::numeric_limits<float>::quiet_NaN());
                    EXPECT(sparsify_convolution(packed.memory.get(), packed.bytes, rows, SPARSIFY_FLOAT32, &s, x.data(),
                                                scale.data(), bias.data(), 1, y.data(), threads,
                                                instructions) == SPARSIFY_OK);
                    uint64_t wrong = 0;
                    for (uint64_t i = 0; i < y.size(); ++i) wrong += !(std::fabs(y[i] - wanted[i]) <= 2e-6 * (1 + size[i]));
                    EXPECT(wrong == 0);
                }
        }
    }
}

void impossible_convolutions() {
    std::mt19937 random(5);
    const Matrix m(3, 4, 1.0, random);
    const Buffer packed = m.packed(1);
    const float x[64] = {};
    float y[64];
    const SparsifyConvolution fine{1, 1, 4, 4, 2, 2, 1, 1, 0, 0, 1, 1, 3, 3};
    const auto code = [&](SparsifyConvolution s) {
        return sparsify_convolution(packed.memory.get(), packed.bytes, 3, SPARSIFY_FLOAT32, &s, x, nullptr, nullptr, 0, y, 1,
                                    0);
    };
    const auto with = [&](int64_t SparsifyConvolution::*which, int64_t value) {
        SparsifyConvolution s = fine;
        s.*which = value;
        return code(s);
    };
    EXPECT(code(fine) == SPARSIFY_OK);
    EXPECT(with(&SparsifyConvolution::images, 0) == SPARSIFY_OK);
    EXPECT(with(&SparsifyConvolution::channels, 2) == SPARSIFY_OTHER_SHAPE);
    for (auto which : {&SparsifyConvolution::height, &SparsifyConvolution::stride_width, &SparsifyConvolution::dilation_width,
                       &SparsifyConvolution::out_height, &SparsifyConvolution::kernel_width})
        for (int64_t value : {int64_t{0}, int64_t{-1}, int64_t{1} << 40})
            EXPECT(with(which, value) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(with(&SparsifyConvolution::top, -1) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(with(&SparsifyConvolution::kernel_height, 17) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(with(&SparsifyConvolution::stride_width, 65) == SPARSIFY_BAD_ARGUMENT);
}

void damage() {
    std::mt19937 random(2);
    const Matrix m(70, 300, 0.2, random);
    const Buffer packed = m.packed(2);
    for (uint64_t bytes : {uint64_t{0}, uint64_t{8}, uint64_t{63}, packed.bytes - 64, packed.bytes - 1})
        EXPECT(sparsify_check(packed.memory.get(), bytes) == SPARSIFY_BAD_PACKED);
    Buffer copy(packed.bytes);
    std::uniform_int_distribution<uint64_t> anywhere(0, packed.bytes - 1), header(0, 63), bit(0, 7);
    for (int i = 0; i < 2000; ++i) {
        std::memcpy(copy.memory.get(), packed.memory.get(), packed.bytes);
        copy.memory.get()[i % 2 ? anywhere(random) : header(random)] ^= static_cast<char>(1 << bit(random));
        EXPECT(sparsify_check(copy.memory.get(), copy.bytes) != SPARSIFY_OK);
    }
    const int64_t backwards[] = {0, 2, 1}, whole[] = {0, 1, 2};
    const int32_t outside[] = {0, 9}, fine[] = {0, 1};
    const float values[] = {1, 2};
    EXPECT(sparsify_packed_bytes(2, 4, backwards, fine, 1) == SPARSIFY_BAD_MATRIX);
    EXPECT(sparsify_packed_bytes(2, 4, whole, outside, 1) == SPARSIFY_BAD_MATRIX);
    EXPECT(sparsify_packed_bytes(2, 4, whole, fine, 3) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(sparsify_pack(2, 4, whole, fine, values, 7, 1, copy.memory.get(), copy.bytes) == SPARSIFY_BAD_ARGUMENT);
    float x[300] = {}, y[70];
    const void* p = packed.memory.get();
    EXPECT(sparsify_linear(p, packed.bytes, 70, 299, 0, x, 1, nullptr, 0, y, 1, 0) == SPARSIFY_OTHER_SHAPE);
    EXPECT(sparsify_linear(p, packed.bytes, 70, 300, 0, x, 1, nullptr, 9, y, 1, 0) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(sparsify_linear(p, packed.bytes, 70, 300, 0, x, 1, nullptr, 0, y, 1, 99) == SPARSIFY_NO_KERNELS);
    EXPECT(sparsify_linear(p, packed.bytes, 70, 300, 0, x, 0, nullptr, 0, y, 1, 0) == SPARSIFY_OK);
}

// The same bits whatever the number of threads, from several callers at once, and in a forked child.
void threads() {
    std::mt19937 random(3);
    const Matrix m(600, 200, 0.1, random);
    const Buffer packed = m.packed(1);
    const uint64_t tokens = 150;
    const std::vector<float> x = noise(tokens * m.columns, random);
    const std::vector<float> once = product(m, packed, x, tokens, nullptr, 1, SPARSIFY_BEST);
    for (uint32_t count : {2u, 3u, 8u})
        for (int i = 0; i < 20; ++i) EXPECT(product(m, packed, x, tokens, nullptr, count, SPARSIFY_BEST) == once);
    std::vector<std::thread> callers;
    std::vector<int> wrong(4);
    for (size_t c = 0; c < wrong.size(); ++c)
        callers.emplace_back([&, c] {
            for (int i = 0; i < 20; ++i) wrong[c] += product(m, packed, x, tokens, nullptr, 3, SPARSIFY_BEST) != once;
        });
    for (auto& caller : callers) caller.join();
    for (int each : wrong) EXPECT(each == 0);
#if defined(__SANITIZE_THREAD__)
    return;  // its runtime starts no threads in a forked child
#endif
    const pid_t child = fork();
    if (child == 0) _exit(product(m, packed, x, tokens, nullptr, 3, SPARSIFY_BEST) == once ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT(product(m, packed, x, tokens, nullptr, 3, SPARSIFY_BEST) == once);
}

}  // namespace

struct Heads {
    uint64_t batch, heads, queries, keys, width, group;
};

// Attention as it is asked for, of [batch, tokens, heads, width], as transformers have it. Bytes of `mask` lie as its strides
// say; an empty one is none.
struct Asked {
    Heads h;
    std::vector<float> q, k, v;
    Buffer mask{0};
    SparsifyAttention as{};

    Asked(const Heads& sizes, std::mt19937& random) : h(sizes) {
        const uint64_t shared = h.heads / h.group;
        q = noise(h.batch * h.queries * h.heads * h.width, random);
        k = noise(h.batch * h.keys * shared * h.width, random), v = noise(k.size(), random);
        as.q = q.data(), as.k = k.data(), as.v = v.data();
        as.batch = h.batch, as.heads = h.heads, as.queries = h.queries, as.keys = h.keys, as.width = h.width;
        as.group = h.group, as.scale = 0.3f;
        for (int64_t* stride : {as.q_stride, as.out_stride, as.k_stride, as.v_stride}) {
            const bool of_keys = stride == as.k_stride || stride == as.v_stride;
            stride[1] = static_cast<int64_t>(h.width), stride[2] = stride[1] * static_cast<int64_t>(of_keys ? shared : h.heads);
            stride[0] = stride[2] * static_cast<int64_t>(of_keys ? h.keys : h.queries);
        }
    }

    // A mask of these sizes, of which those of 1 are the same everywhere, `apart` bytes from key to key; a third is true,
    // and what lies between the keys is, too.
    void masked(const uint64_t (&sizes)[4], int64_t apart, std::mt19937& random) {
        std::uniform_int_distribution<int> third(0, 2);
        int64_t bytes = apart;
        for (int i = 3; i >= 0; --i) {
            as.mask_stride[i] = sizes[i] == 1 ? 0 : bytes;
            bytes *= static_cast<int64_t>(sizes[i]);
        }
        mask = Buffer(static_cast<uint64_t>(bytes - apart + 1), 1);  // not a byte after the last
        for (uint64_t i = 0; i < mask.bytes; ++i) mask.memory.get()[i] = i % apart || third(random) == 0 ? 2 : 0;
        as.mask = reinterpret_cast<uint8_t*>(mask.memory.get());
    }

    bool attends(uint64_t b, uint64_t head, uint64_t query, uint64_t key) const {
        if (as.causal && key > query) return false;
        const uint64_t at[] = {b, head, query, key};
        int64_t offset = 0;
        for (int i = 0; i < 4; ++i) offset += static_cast<int64_t>(at[i]) * as.mask_stride[i];
        return !as.mask || as.mask[offset];
    }

    std::vector<float> computed(uint32_t threads, int32_t instructions) {
        std::vector<float> out(q.size(), std::numeric_limits<float>::quiet_NaN());
        as.out = out.data();
        EXPECT(sparsify_attention(&as, threads, instructions) == SPARSIFY_OK);
        return out;
    }

    void check(int32_t instructions) {
        const std::vector<float> out = computed(1, instructions);
        EXPECT(computed(3, instructions) == out);
        const uint64_t token = h.heads * h.width, shared = token / h.group;
        int wrong = 0;
        for (uint64_t b = 0; b < h.batch; ++b)
            for (uint64_t head = 0; head < h.heads; ++head)
                for (uint64_t i = 0; i < h.queries; ++i) {
                    const uint64_t mine = head / h.group * h.width;
                    std::vector<double> scores(h.keys);
                    double sum = 0;
                    for (uint64_t j = 0; j < h.keys; ++j) {
                        if (!attends(b, head, i, j)) continue;
                        for (uint64_t d = 0; d < h.width; ++d)
                            scores[j] += double{q[(b * h.queries + i) * token + head * h.width + d]} *
                                         k[(b * h.keys + j) * shared + mine + d];
                        sum += scores[j] = std::exp(0.3f * scores[j]);
                    }
                    for (uint64_t d = 0; d < h.width; ++d) {
                        double wanted = 0;  // of a query without a key
                        for (uint64_t j = 0; j < h.keys && sum > 0; ++j)
                            wanted += scores[j] / sum * v[(b * h.keys + j) * shared + mine + d];
                        const double apart = wanted - out[(b * h.queries + i) * token + head * h.width + d];
                        wrong += !(std::fabs(apart) <= 5e-6);
                    }
                }
        EXPECT(wrong == 0);
    }
};

void attention(int32_t instructions) {
    std::mt19937 random(4);
    const Heads every[] = {{1, 1, 1, 1, 4, 1},   {2, 3, 5, 7, 20, 1},    {1, 2, 64, 64, 64, 1},
                           {2, 1, 67, 130, 8, 1}, {1, 1, 200, 3, 36, 1}, {2, 6, 130, 70, 4, 3}};
    for (const Heads& h : every)
        for (uint32_t causal : {0u, 1u}) {
            Asked asked(h, random);
            asked.as.causal = causal;
            asked.check(instructions);
            for (int which = 0; which < 16; ++which) {  // each of the four sizes whole, or the same everywhere
                const uint64_t sizes[] = {which & 1 ? h.batch : 1, which & 2 ? h.heads : 1, which & 4 ? h.queries : 1,
                                          which & 8 ? h.keys : 1};
                asked.masked(sizes, which % 3 ? 1 : 3, random);
                asked.check(instructions);
            }
        }
    Asked fine({1, 4, 2, 2, 4, 2}, random);
    std::vector<float> out(fine.q.size());
    fine.as.out = out.data();
    const auto with = [&](auto SparsifyAttention::*which, auto value) {
        SparsifyAttention asked = fine.as;
        asked.*which = value;
        return sparsify_attention(&asked, 1, instructions);
    };
    EXPECT(with(&SparsifyAttention::scale, 1.0f) == SPARSIFY_OK);
    EXPECT(with(&SparsifyAttention::queries, uint64_t{0}) == SPARSIFY_OK);
    for (uint64_t value : {0, 3, 1 << 21}) {
        EXPECT(with(&SparsifyAttention::width, value) == SPARSIFY_BAD_ARGUMENT);
        EXPECT(with(&SparsifyAttention::group, value) == SPARSIFY_BAD_ARGUMENT);
        if (value != 3) EXPECT(with(&SparsifyAttention::keys, value) == SPARSIFY_BAD_ARGUMENT);
    }
    EXPECT(with(&SparsifyAttention::scale, 0.0f) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(with(&SparsifyAttention::value_type, 1u) == SPARSIFY_BAD_ARGUMENT);
}

void rates() {
    for (int32_t instructions = SPARSIFY_PORTABLE; instructions <= sparsify_instructions(); ++instructions) {
        const int64_t once = sparsify_spin(1, 1, instructions);
        EXPECT(once > 0 && sparsify_spin(7, 3, instructions) == 21 * once);
    }
    EXPECT(sparsify_spin(1, 0, 0) == SPARSIFY_BAD_ARGUMENT);
    EXPECT(sparsify_spin(1, 1, 99) == SPARSIFY_NO_KERNELS);
}

int main() {
    for (int32_t instructions = SPARSIFY_PORTABLE; instructions <= sparsify_instructions(); ++instructions) {
        shapes(instructions);
        convolutions(instructions);
        attention(instructions);
    }
    impossible_convolutions();
    damage();
    threads();
    rates();
    std::printf(failures ? "%d failures\n" : "the engine does what it should\n", failures);
    return failures != 0;
}
