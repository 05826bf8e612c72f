// The kernels, written once; each kernels_*.cpp compiles them for one instruction set, in a namespace of its own.
//
// Needs LANES (floats of the widest vector), REGISTERS (vectors that there are) and ISA (the namespace). No header of the
// C++ library is included but those without code: an inline function that is compiled for AVX-512 here could be the copy
// that the linker keeps for every processor.

namespace sparsify {
namespace ISA {
namespace {

#include "vectors.inl"

#include "activations.inl"

// Vectors of sums for each row that are held in registers at a time: the sums, the inputs, and one value must fit.
template <int HEIGHT, int ALL>
constexpr int held_at_once() {
    int held = ALL;
    while (HEIGHT > 1 ? (HEIGHT + 1) * held + 1 > REGISTERS : held + 2 > REGISTERS) held = (held + 1) / 2;
    return held;
}

template <int VALUE>
struct Number {
    static constexpr int value = VALUE;
};

// Segments of a run that are computed at a time, so that no product waits for the one before: a multiply-add takes 4
// cycles, and two begin in each, which makes eight sums.
template <int HEIGHT, int N>
constexpr int at_once() {
    return HEIGHT * N >= 8 ? 1 : HEIGHT * N >= 4 ? 2 : 4;
}

// S segments of `count` columns each: sums [HEIGHT, N vectors] += values [count, HEIGHT] × inputs [count, N vectors]; rows
// are WIDTH floats apart.
template <int L, int HEIGHT, int N, int WIDTH, int S>
INLINE void segments(const uint16_t* groups, const uint8_t* columns, const float* values, size_t count,
                     const float* inputs, float* sums) {
    Floats<L> held[S][HEIGHT][N];
    float* to[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
        to[s] = sums + size_t{groups[s]} * HEIGHT * WIDTH;
#pragma GCC unroll 4
        for (int h = 0; h < HEIGHT; ++h)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) held[s][h][n] = load<L>(to[s] + h * WIDTH + n * L);
    }
    const auto add = [&](int s, size_t j, size_t column) INLINE_LAMBDA {
        const float* from = inputs + column * WIDTH;
        Floats<L> in[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) in[n] = load<L>(from + n * L);
#pragma GCC unroll 4
        for (int h = 0; h < HEIGHT; ++h) {
            const float value = values[(s * count + j) * HEIGHT + h];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) held[s][h][n] += value * in[n];
        }
    };
    size_t j = 0;
    for (; j + 4 <= count; j += 4) {  // four columns by one load: loads are what there is least of
        uint32_t four[S];
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) __builtin_memcpy(&four[s], columns + s * count + j, 4);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
            for (int s = 0; s < S; ++s) add(s, j + i, four[s] >> (8 * i) & 255);
    }
    for (; j < count; ++j)
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) add(s, j, columns[s * count + j]);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
        for (int h = 0; h < HEIGHT; ++h)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) store<L>(to[s] + h * WIDTH + n * L, held[s][h][n]);
}

// Lets the sums of a group come into the first cache.
template <int HEIGHT, int BYTES, int WIDTH>
INLINE void expect(const float* sums) {
#pragma GCC unroll 4
    for (int h = 0; h < HEIGHT; ++h)
#pragma GCC unroll 4
        for (int b = 0; b < BYTES; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(sums + h * WIDTH) + b, 1);
}

// A panel, for N vectors of tokens.
template <int L, int HEIGHT, int N, int WIDTH>
INLINE void multiply(const void* packed, const Panel& panel, const float* inputs, float* sums) {
    constexpr int S = at_once<HEIGHT, N>();
    const Run* run = at<Run>(packed, panel.runs_at);
    const uint16_t* group = at<uint16_t>(packed, panel.groups_at);
    const uint16_t* const end = group + panel.segments;
    const uint8_t* columns = at<uint8_t>(packed, panel.columns_at);
    const float* values = at<float>(packed, panel.values_at);
    for (; group != end; ++run) {
        const size_t count = run->count;
        size_t left = run->segments;
        const auto take = [&](auto number) INLINE_LAMBDA {
            constexpr int M = decltype(number)::value;
            if (end - group >= 2 * M)
#pragma GCC unroll 4
                for (int m = 0; m < M; ++m)
                    expect<HEIGHT, N * L * 4, WIDTH>(sums + size_t{group[M + m]} * HEIGHT * WIDTH);
            segments<L, HEIGHT, N, WIDTH, M>(group, columns, values, count, inputs, sums);
            left -= M;
            group += M;
            columns += count * M;
            values += count * M * HEIGHT;
        };
        while (left >= S) take(Number<S>{});
        while (S > 1 && left) take(Number<1>{});
    }
}

constexpr uint32_t LINE = 16;  // floats that lie in one line of the cache

// x [count, columns] → inputs [columns, WIDTH]: tokens become lanes. What is beyond `count` is zero. Tokens are `stride`
// floats apart: a vector's tokens are read line by line, each line before it is needed.
template <int L, int WIDTH>
INLINE void gather(const float* x, uint64_t stride, uint64_t columns, uint32_t count, float* inputs) {
    for (uint32_t t = 0; t < WIDTH; t += L) {
        const int there = static_cast<int>(count) - static_cast<int>(t);
        const float* from = x + t * stride;
        float* to = inputs + t;
        for (uint64_t k = 0; k < columns; k += LINE) {
            const uint64_t end = k + LINE < columns ? k + LINE : columns;
            for (int i = 0; i < L && i < there; ++i) __builtin_prefetch(from + i * stride + k + 4 * LINE);
            uint64_t c = k;
            for (; c + 4 <= end; c += 4) {
                Floats<L> four[4];
                if (there >= L)
                    columns_of<L>(from + c, stride, L, four);
                else
                    columns_of<L>(from + c, stride, there, four);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) store<L>(to + (c + i) * WIDTH, four[i]);
            }
            for (; c < end; ++c)
                for (int i = 0; i < L; ++i) to[c * WIDTH + i] = i < there ? from[i * stride + c] : 0.0f;
        }
    }
}

// sums [rows, WIDTH] → y [count, …] for the tokens from `first` to before `last`: rows become columns again, the bias is
// added, the activation taken.
template <int L, int WIDTH>
INLINE void scatter_some(const float* sums, const float* bias, uint32_t activation, uint64_t rows, uint32_t first,
                         uint32_t last, float* y, uint64_t stride) {
    for (uint64_t r = 0; r < rows; r += L) {
        const int height = rows - r < L ? static_cast<int>(rows - r) : L;
        Floats<L> more = {};
        if (bias && height == L) more = load<L>(bias + r);
        if (bias && height < L)
            for (int j = 0; j < height; ++j) more[j] = bias[r + j];
        for (uint32_t t = first; t < last; t += 4) {
            const uint32_t there = last - t < 4 ? last - t : 4;
            float* to = y + t * stride + r;
            for (uint32_t i = 0; i < there; ++i) __builtin_prefetch(to + i * stride + LINE, 1);
            Floats<L> four[4];
            if (height == L)
                columns_of<L>(sums + r * WIDTH + t, WIDTH, L, four);
            else
                columns_of<L>(sums + r * WIDTH + t, WIDTH, height, four);
#pragma GCC unroll 4
            for (uint32_t i = 0; i < 4; ++i) four[i] = activated<L>(four[i] + more, activation);
            if (height == L) {
#pragma GCC unroll 4
                for (uint32_t i = 0; i < 4; ++i)
                    if (i < there) store<L>(to + i * stride, four[i]);
                continue;
            }
            for (uint32_t i = 0; i < there; ++i)
                for (int j = 0; j < height; ++j) to[i * stride + j] = four[i][j];
        }
    }
}

// The same for `count` tokens, as many of them at a time as there are in a line of sums: more would lie in more pages than
// the processor can write to without looking them up.
template <int L, int WIDTH>
INLINE void scatter(const float* sums, const float* bias, uint32_t activation, uint64_t rows, uint32_t count, float* y,
                    uint64_t stride) {
    for (uint32_t t = 0; t < count; t += LINE)
        scatter_some<L, WIDTH>(sums, bias, activation, rows, t, t + LINE < count ? t + LINE : count, y, stride);
}

#include "images.inl"

// A tile of ALL vectors of tokens.
template <int L, int HEIGHT, int ALL>
void compute(const Task& task, uint64_t token, uint32_t count, uint64_t first, uint64_t last, float* scratch) {
    constexpr int WIDTH = L * ALL, N = held_at_once<HEIGHT, ALL>();
    static_assert(ALL % N == 0, "the vectors of a tile are taken N at a time");
    const Header& header = header_of(task.packed);
    const uint64_t blocks = blocks_of(header);
    float* inputs = scratch;
    float* sums = scratch + header.columns * WIDTH + (task.images ? L : 0);  // the last vector of a gather may go beyond
    float* window = sums + uint64_t{header.chunk} * WIDTH;
    Gathering gathering;
    if (task.images)
        describe<L>(*task.images, token, count, gathering);
    else
        gather<L, WIDTH>(task.x + token * header.columns, header.columns, header.columns, count, inputs);
    for (uint64_t chunk = first; chunk < last; ++chunk) {
        const uint64_t begin = chunk * header.chunk;
        const uint64_t rows = header.rows - begin < header.chunk ? header.rows - begin : header.chunk;
        for (size_t i = 0; i < parts(rows, HEIGHT) * HEIGHT * WIDTH; i += L) store<L>(sums + i, Floats<L>{});
        const Panel* panel = panels_of(task.packed) + chunk * blocks;
        for (uint64_t block = 0; block < blocks; ++block, ++panel) {
            const uint64_t column = block * header.block;
            // inputs that no other chunk needs lie where those before them lay: they stay in the first cache
            float* mine = inputs + (task.images && last - first == 1 ? 0 : column * WIDTH);
            if (task.images && chunk == first) {
                const uint64_t left = header.columns - column;
                gather_images<L, WIDTH>(task, gathering, left < header.block ? left : header.block, mine, window);
            }
            for (int n = 0; n < ALL; n += N)
                multiply<L, HEIGHT, N, WIDTH>(task.packed, *panel, mine + n * L, sums + n * L);
        }
        if (task.images) {
            scatter_images<L, WIDTH>(task, sums, begin, rows, token, count);
            continue;
        }
        scatter<L, WIDTH>(sums, task.bias ? task.bias + begin : nullptr, task.activation, rows, count,
                          task.y + token * header.rows + begin, header.rows);
    }
}

#include "single.inl"

#include "attention.inl"

template <int L, int ALL>
void of_height(const Task& task, uint64_t token, uint32_t count, uint64_t first, uint64_t last, float* scratch) {
    switch (header_of(task.packed).height) {
        case 1:
            return compute<L, 1, ALL>(task, token, count, first, last, scratch);
        case 2:
            return compute<L, 2, ALL>(task, token, count, first, last, scratch);
        default:
            return compute<L, 4, ALL>(task, token, count, first, last, scratch);
    }
}

}  // namespace

constexpr uint64_t LARGEST_INPUTS = 1 << 20;  // bytes of a tile's inputs that should stay in the second cache
constexpr uint32_t WIDTHS[] = {4, 8, 16, 32, 48, 64}, WIDEST = LANES == 4 ? 32 : 64;

uint32_t tile(const Header& header, uint64_t left) {
    uint32_t most = WIDEST;
    while (most > LANES && header.columns * most * sizeof(float) > LARGEST_INPUTS) most /= 2;
    for (uint32_t width : WIDTHS)
        if (width >= left && width < most) return width;
    return most;
}

template <int WIDTH>
void of_width(const Task& task, uint64_t token, uint32_t count, uint64_t first, uint64_t last, float* scratch) {
    constexpr int L = WIDTH < LANES ? WIDTH : LANES;
    of_height<L, WIDTH / L>(task, token, count, first, last, scratch);
}

void run(const Task& task, uint64_t token, uint32_t count, uint64_t first, uint64_t last, float* scratch) {
    const uint32_t height = task.images ? 0 : header_of(task.packed).height;
    if (count == 1 && height == 4) return compute_one<4>(task, token, first, last, scratch);
#if LANES >= 8
    if (count == 1 && height == 1) return compute_one<1>(task, token, first, last, scratch);
#endif
    switch (tile(header_of(task.packed), count)) {
        case 4:
            return of_width<4>(task, token, count, first, last, scratch);
        case 8:
            return of_width<8>(task, token, count, first, last, scratch);
        case 16:
            return of_width<16>(task, token, count, first, last, scratch);
        case 32:
            return of_width<32>(task, token, count, first, last, scratch);
#if LANES > 4
        case 48:
            return of_width<48>(task, token, count, first, last, scratch);
        default:
            return of_width<64>(task, token, count, first, last, scratch);
#endif
    }
}

constexpr uint32_t tile_of_queries = QUERIES;

// Sums enough that none waits for the one before (a multiply-add takes 4 cycles, and two begin in each).
uint64_t spin(uint64_t rounds) {
    constexpr int SUMS = REGISTERS * 5 / 8;
    Floats<LANES> sums[SUMS];
    const Floats<LANES> half = Floats<LANES>{} + 0.5f, one = Floats<LANES>{} + 1.0f;
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) sums[i] = one * static_cast<float>(i);
    for (uint64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 32
        for (int i = 0; i < SUMS; ++i) sums[i] = sums[i] * half + one;
#pragma GCC unroll 32
    for (int i = 1; i < SUMS; ++i) sums[0] += sums[i];
    volatile float used = sums[0][0];  // or the compiler leaves everything out
    (void)used;
    return rounds * SUMS * LANES * 2;
}

}  // namespace ISA
}  // namespace sparsify
