// One token and groups of four rows: no tokens can fill the lanes, so they are the rows of a group, whose values lie side
// by side. (For single rows a gather of the inputs was measured to be no faster than a tile of four tokens.)

// One segment: sums [4] += values [count, 4] × x at `columns`.
INLINE void segment_of_one(const uint8_t* columns, const float* values, unsigned count, const float* x, float* sums) {
    Floats<4> held[4] = {load<4>(sums)};
    unsigned j = 0;
    for (; j + 4 <= count; j += 4)
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; ++i) held[i] += x[columns[j + i]] * load<4>(values + (j + i) * 4);
    for (; j < count; ++j) held[0] += x[columns[j]] * load<4>(values + j * 4);
    store<4>(sums, (held[0] + held[1]) + (held[2] + held[3]));
}

INLINE void multiply_one(const void* packed, const Panel& panel, const float* x, float* sums) {
    const Run* run = at<Run>(packed, panel.runs_at);
    const uint16_t* group = at<uint16_t>(packed, panel.groups_at);
    const uint8_t* columns = at<uint8_t>(packed, panel.columns_at);
    const float* values = at<float>(packed, panel.values_at);
    for (const Run* end = run + panel.runs; run != end; ++run)
        for (unsigned left = run->segments; left; --left, ++group) {
            segment_of_one(columns, values, run->count, x, sums + size_t{*group} * 4);
            columns += run->count;
            values += size_t{run->count} * 4;
        }
}

void compute_one(const Task& task, uint64_t token, uint64_t first, uint64_t last, float* sums) {
    const Header& header = header_of(task.packed);
    const uint64_t blocks = blocks_of(header);
    const float* x = task.x + token * header.columns;
    for (uint64_t chunk = first; chunk < last; ++chunk) {
        const uint64_t begin = chunk * header.chunk;
        const uint64_t rows = header.rows - begin < header.chunk ? header.rows - begin : header.chunk;
        for (uint64_t r = 0; r < rows; r += 4) store<4>(sums + r, Floats<4>{});
        const Panel* panel = panels_of(task.packed) + chunk * blocks;
        for (uint64_t block = 0; block < blocks; ++block, ++panel)
            multiply_one(task.packed, *panel, x + block * header.block, sums);
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
