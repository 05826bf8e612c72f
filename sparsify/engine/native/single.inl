// One token: no tokens can fill the lanes. For groups of four rows they are the rows of a group, whose values lie side by
// side; for single rows they are eight columns of a row, whose inputs are gathered. (Sixteen at a time, and one by one, were
// measured to be slower. Without an instruction that gathers, a tile of four tokens is as fast.)

// One segment of four rows: sums [4] += values [count, 4] × x at `columns`.
INLINE void segment_of_one(const uint8_t* columns, const float* values, unsigned count, const float* x, float* sums) {
    Floats<4> held[4] = {load<4>(sums)};
    unsigned j = 0;
    for (; j + 4 <= count; j += 4)
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; ++i) held[i] += x[columns[j + i]] * load<4>(values + (j + i) * 4);
    for (; j < count; ++j) held[0] += x[columns[j]] * load<4>(values + j * 4);
    store<4>(sums, (held[0] + held[1]) + (held[2] + held[3]));
}

INLINE void multiply_fours(const Run& run, const uint16_t* group, const uint8_t* columns, const float* values,
                           const float* x, float* sums) {
    const unsigned count = run.count;
    for (unsigned s = 0; s < run.segments; ++s, columns += count, values += size_t{count} * 4)
        segment_of_one(columns, values, count, x, sums + size_t{group[s]} * 4);
}

#if LANES >= 8

constexpr size_t AHEAD = 512;  // values (2 KB) that are asked for before they are needed: what is read once comes from afar

// The inputs at eight columns. (With a mask of all: the headers of GCC make others of what has no value.)
INLINE Floats<8> picked(const float* x, const uint8_t* columns) {
    const __m256i places = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(columns)));
    const __m256 all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), x, places, all, 4);
}

// S segments of single rows (up to four), `count` columns each.
template <int S>
INLINE void rows_of_one(const uint16_t* group, const uint8_t* columns, const float* values, size_t count,
                        const float* x, float* sums) {
    typedef Vector<8> V;
    Floats<8> held[4] = {};
    float rest[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s, columns += count, values += count) {
        size_t j = 0;
        for (; j + 8 <= count; j += 8) {
            __builtin_prefetch(values + j + AHEAD);
            held[s] += load<8>(values + j) * picked(x, columns + j);
        }
        float even = 0, odd = 0;
        for (; j + 2 <= count; j += 2) {
            even += values[j] * x[columns[j]];
            odd += values[j + 1] * x[columns[j + 1]];
        }
        if (j < count) even += values[j] * x[columns[j]];
        rest[s] = even + odd;
    }
    const Floats<8> a = V::low(held[0], held[1]) + V::high(held[0], held[1]);
    const Floats<8> b = V::low(held[2], held[3]) + V::high(held[2], held[3]);
    const Floats<8> both = V::first(a, b) + V::second(a, b);  // four sums, of the first four lanes and of the others
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) sums[group[s]] += both[s] + both[s + 4] + rest[s];
}

INLINE void multiply_rows(const Run& run, const uint16_t* group, const uint8_t* columns, const float* values,
                          const float* x, float* sums) {
    const size_t count = run.count;
    unsigned s = 0;
    for (; s + 4 <= run.segments; s += 4, columns += count * 4, values += count * 4)
        rows_of_one<4>(group + s, columns, values, count, x, sums);
    for (; s < run.segments; ++s, columns += count, values += count)
        rows_of_one<1>(group + s, columns, values, count, x, sums);
}

#endif

// A token for groups of HEIGHT rows, 1 or 4.
template <int HEIGHT>
void compute_one(const Task& task, uint64_t token, uint64_t first, uint64_t last, float* sums) {
    const Header& header = header_of(task.packed);
    const uint64_t blocks = blocks_of(header);
    const float* x = task.x + token * header.columns;
    for (uint64_t chunk = first; chunk < last; ++chunk) {
        const uint64_t begin = chunk * header.chunk;
        const uint64_t rows = header.rows - begin < header.chunk ? header.rows - begin : header.chunk;
        for (uint64_t r = 0; r < rows; r += 4) store<4>(sums + r, Floats<4>{});
        const Panel* panel = panels_of(task.packed) + chunk * blocks;
        for (uint64_t block = 0; block < blocks; ++block, ++panel) {
            const Run* run = at<Run>(task.packed, panel->runs_at);
            const uint16_t* group = at<uint16_t>(task.packed, panel->groups_at);
            const uint8_t* columns = at<uint8_t>(task.packed, panel->columns_at);
            const float* values = at<float>(task.packed, panel->values_at);
            for (const Run* end = run + panel->runs; run != end; ++run) {
#if LANES >= 8
                if (HEIGHT == 1) multiply_rows(*run, group, columns, values, x + block * header.block, sums);
#endif
                if (HEIGHT == 4) multiply_fours(*run, group, columns, values, x + block * header.block, sums);
                group += run->segments;
                columns += size_t{run->segments} * run->count;
                values += size_t{run->segments} * run->count * HEIGHT;
            }
        }
        float* y = task.y + token * header.rows + begin;
        for (uint64_t r = 0; r < rows; r += 4) {
            const int there = rows - r < 4 ? static_cast<int>(rows - r) : 4;
            Floats<4> sum = load<4>(sums + r);
            if (task.bias)
                for (int i = 0; i < there; ++i) sum[i] += task.bias[begin + r + i];
            sum = activated<4>(sum, task.activation);
            for (int i = 0; i < there; ++i) y[r + i] = sum[i];
        }
    }
}
