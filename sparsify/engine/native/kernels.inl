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

// Sums that are kept apart until a segment ends, so that one product need not wait for the one before.
template <int HEIGHT, int N>
constexpr int chains() {
    return HEIGHT * N >= 4 ? 1 : 4 / (HEIGHT * N);
}

// One segment: sums [HEIGHT, N vectors] += values [count, HEIGHT] × inputs [count, N vectors]; rows are WIDTH floats apart.
template <int L, int HEIGHT, int N, int WIDTH>
INLINE void segment(const uint8_t* columns, const float* values, unsigned count, const float* inputs, float* sums) {
    constexpr int CHAINS = chains<HEIGHT, N>();
    Floats<L> held[CHAINS][HEIGHT][N] = {};
    const auto add = [&](int chain, unsigned j) INLINE_LAMBDA {
        const float* from = inputs + size_t{columns[j]} * WIDTH;
        Floats<L> in[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) in[n] = load<L>(from + n * L);
#pragma GCC unroll 4
        for (int h = 0; h < HEIGHT; ++h) {
            const float value = values[j * HEIGHT + h];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) held[chain][h][n] += value * in[n];
        }
    };
#pragma GCC unroll 4
    for (int h = 0; h < HEIGHT; ++h)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) held[0][h][n] = load<L>(sums + h * WIDTH + n * L);
    unsigned j = 0;
    for (; CHAINS > 1 && j + CHAINS <= count; j += CHAINS)
#pragma GCC unroll 4
        for (int chain = 0; chain < CHAINS; ++chain) add(chain, j + chain);
#pragma GCC unroll 4
    for (; j < count; ++j) add(0, j);
#pragma GCC unroll 4
    for (int h = 0; h < HEIGHT; ++h)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
#pragma GCC unroll 4
            for (int chain = 1; chain < CHAINS; ++chain) held[0][h][n] += held[chain][h][n];
            store<L>(sums + h * WIDTH + n * L, held[0][h][n]);
        }
}

// A panel, for N vectors of tokens.
template <int L, int HEIGHT, int N, int WIDTH>
INLINE void multiply(const void* packed, const Panel& panel, const float* inputs, float* sums) {
    const Run* run = at<Run>(packed, panel.runs_at);
    const uint16_t* group = at<uint16_t>(packed, panel.groups_at);
    const uint8_t* columns = at<uint8_t>(packed, panel.columns_at);
    const float* values = at<float>(packed, panel.values_at);
    for (const Run* end = run + panel.runs; run != end; ++run) {
        const unsigned count = run->count;
        for (unsigned left = run->segments; left; --left, ++group) {
            segment<L, HEIGHT, N, WIDTH>(columns, values, count, inputs, sums + size_t{*group} * HEIGHT * WIDTH);
            columns += count;
            values += size_t{count} * HEIGHT;
        }
    }
}

// x [count, columns] → inputs [columns, WIDTH]: tokens become lanes. What is beyond `count` is zero.
template <int L, int WIDTH>
INLINE void gather(const float* x, uint64_t columns, uint32_t count, float* inputs) {
    for (int t = 0; t < WIDTH; t += L) {
        const int there = static_cast<int>(count) - t;
        const float* from = x + t * columns;
        float* to = inputs + t;
        uint64_t k = 0;
        for (; k + L <= columns; k += L) {
            Floats<L> square[L];
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) square[i] = i < there ? load<L>(from + i * columns + k) : Floats<L>{};
            transpose<L>(square);
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) store<L>(to + (k + i) * WIDTH, square[i]);
        }
        for (; k < columns; ++k)
            for (int i = 0; i < L; ++i) to[k * WIDTH + i] = i < there ? from[i * columns + k] : 0.0f;
    }
}

// sums [rows, WIDTH] → y [count, …]: the bias is added, the activation taken, and rows become columns again.
template <int L, int WIDTH>
INLINE void scatter(const float* sums, const float* bias, uint32_t activation, uint64_t rows, uint32_t count, float* y,
                    uint64_t stride) {
    for (uint32_t t = 0; t < count; t += L) {
        const uint32_t there = count - t < L ? count - t : L;
        for (uint64_t r = 0; r < rows; r += L) {
            const int height = rows - r < L ? static_cast<int>(rows - r) : L;
            Floats<L> square[L];
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) {
                square[i] = i < height ? load<L>(sums + (r + i) * WIDTH + t) : Floats<L>{};
                if (bias && i < height) square[i] += bias[r + i];
                square[i] = activated<L>(square[i], activation);
            }
            transpose<L>(square);
            float* to = y + t * stride + r;
            if (height == L) {
#pragma GCC unroll 16
                for (uint32_t i = 0; i < L; ++i)
                    if (i < there) store<L>(to + i * stride, square[i]);
                continue;
            }
            for (uint32_t i = 0; i < there; ++i)
                for (int j = 0; j < height; ++j) to[i * stride + j] = square[i][j];
        }
    }
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
        gather<L, WIDTH>(task.x + token * header.columns, header.columns, count, inputs);
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
    if (count == 1 && !task.images && header_of(task.packed).height == 4) return compute_one(task, token, first, last, scratch);
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

}  // namespace ISA
}  // namespace sparsify
