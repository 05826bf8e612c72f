// Images: the lanes of a tile are places of the outputs, counted through all images. Their inputs are gathered a channel
// at a time, each place of the kernel a row of lanes, so that nothing is transposed and no image is unfolded as a whole.
//
// Vectors are written in order, each over what the one before it wrote too far. What is not inlined has registers enough.

// What a piece reads of one row of a channel, padding included; columns that are a stride apart lie side by side.
struct Line {
    int64_t row;     // floats before the row, in the first channel; OUTSIDE: all zero
    int64_t column;  // the first one; it may lie outside
    uint64_t count;  // floats for each column of a stride
    uint64_t at;     // floats before it in the window
    int64_t first, last;  // of a stride of 1: the floats that lie inside
};
constexpr int64_t OUTSIDE = -1;

// How far the inputs of a tile are gathered. A move is a vector, or the last part of one, of lanes that lie side by side in
// one row of one output.
struct Gathering {
    uint32_t moves, line_count;
    uint32_t to[MOST_LANES], size[MOST_LANES];      // of each move: its first lane, and how many lanes there are
    uint64_t span[MOST_LANES];                      // floats for each column of a stride in its line
    uint64_t from[MOST_KERNEL_HEIGHT][MOST_LANES];  // floats before what a row of the kernel reads
    uint64_t furthest;                              // the largest of those
    Line lines[MOST_LANES * MOST_KERNEL_HEIGHT];
    bool direct;                   // from the channels themselves, without a window
    bool read[MOST_STRIDE_WIDTH];  // which columns of a stride the kernel reads
    uint64_t count;                // lanes
    int64_t channel, y, x;         // the next column of the weight: a channel and a place of the kernel
    int64_t phase, column;         // where that place lies in a line: a column of a stride, and how many strides on
};

// Whether the kernel reads nothing but what is side by side inside of an image.
INLINE bool is_direct(const SparsifyConvolution& s) {
    return s.stride_width == 1 && s.top == 0 && s.left == 0 &&
           (s.out_height - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height < s.height &&
           s.out_width - 1 + (s.kernel_width - 1) * s.dilation_width < s.width;
}

// Returns where a line lies in the window; pieces that are whole rows share lines.
INLINE uint64_t placed(const SparsifyConvolution& s, Gathering& g, Line line) {
    for (uint32_t i = g.line_count; i > 0; --i) {
        const Line& each = g.lines[i - 1];
        if (each.row == line.row && each.column == line.column && each.count == line.count) return each.at;
    }
    const Line* before = g.line_count ? &g.lines[g.line_count - 1] : nullptr;
    line.at = before ? before->at + before->count * s.stride_width : 0;
    const int64_t count = static_cast<int64_t>(line.count);
    line.first = line.column < 0 ? (-line.column < count ? -line.column : count) : 0;
    line.last = s.width - line.column < count ? s.width - line.column : count;
    if (line.last < line.first) line.last = line.first;
    g.lines[g.line_count++] = line;
    return line.at;
}

template <int L>
INLINE void describe(const SparsifyConvolution& s, uint64_t place, uint32_t count, Gathering& g) {
    const uint64_t reach = reach_of(s);
    g.moves = g.line_count = 0;
    g.furthest = 0;
    g.count = count;
    g.channel = g.y = g.x = g.phase = g.column = 0;
    g.direct = is_direct(s);
    for (bool& each : g.read) each = false;
    for (int64_t k = 0; k < s.kernel_width; ++k) g.read[k * s.dilation_width % s.stride_width] = true;
    uint64_t row = place / s.out_width, column = place % s.out_width;  // of the outputs, through all images
    for (uint32_t lane = 0; lane < count; ++row, column = 0) {
        const uint64_t left = s.out_width - column;
        const uint32_t size = count - lane < left ? count - lane : static_cast<uint32_t>(left);
        const uint32_t first = g.moves;
        for (uint32_t i = 0; i < size; i += L, ++g.moves) {
            g.to[g.moves] = lane + i;
            g.size[g.moves] = size - i < L ? size - i : L;
            g.span[g.moves] = size + reach;
        }
        lane += size;
        const int64_t image = row / s.out_height * (s.channels * s.height * s.width);
        const int64_t above = row % s.out_height * s.stride_height - s.top;
        const int64_t begin = static_cast<int64_t>(column) * s.stride_width - s.left;
        for (int64_t k = 0; k < s.kernel_height; ++k) {
            const int64_t y = above + k * s.dilation_height;
            const int64_t from = y < 0 || y >= s.height ? OUTSIDE : image + y * s.width;
            const uint64_t at = g.direct ? from + begin : placed(s, g, {from, begin, size + reach, 0, 0, 0});
            for (uint32_t m = first; m < g.moves; ++m) {
                g.from[k][m] = at + (m - first) * L;
                if (g.from[k][m] > g.furthest) g.furthest = g.from[k][m];
            }
        }
    }
}

// Copies `count` floats; writes up to L - 1 more, and reads none beyond `end`.
template <int L>
INLINE void copy(const float* from, uint64_t count, float* to, const float* end) {
    for (uint64_t i = 0; i < count; i += L) {
        if (end - from >= static_cast<ptrdiff_t>(i + L)) {
            store<L>(to + i, load<L>(from + i));
            continue;
        }
        for (uint64_t j = i; j < count; ++j) to[j] = from[j];
    }
}

// Writes `count` zeros, and up to L - 1 more.
template <int L>
INLINE void clear(float* to, int64_t count) {
    for (int64_t i = 0; i < count; i += L) store<L>(to + i, Floats<L>{});
}

// Copies `count` floats that are STEP apart.
template <int STEP>
INLINE void picked(const float* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * STEP];
}

// A channel's line → the window.
template <int L>
INLINE void fill(const SparsifyConvolution& s, const bool* read, const Line& line, const float* channel, const float* end,
                 float* to) {
    const int64_t count = static_cast<int64_t>(line.count), stride = s.stride_width;
    if (line.row == OUTSIDE) return clear<L>(to, count * stride);
    if (stride == 1) {
        const float* from = channel + line.row + line.column + line.first;
        // channels are pages apart: the processor does not see the next ones coming
        for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + CHANNELS * s.height * s.width + i);
        if (line.first > 0) clear<L>(to, line.first);
        copy<L>(from, line.last - line.first, to + line.first, end);
        if (line.last < count) clear<L>(to + line.last, count - line.last);
        return;
    }
    for (int64_t phase = 0; phase < stride; ++phase, to += count) {
        if (!read[phase]) continue;
        const int64_t column = line.column + phase;
        int64_t first = 0, last = count;  // what lies inside
        while (first < last && column + first * stride < 0) ++first;
        while (first < last && column + (last - 1) * stride >= s.width) --last;
        if (first > 0) clear<L>(to, first);
        const float* from = channel + line.row + column + first * stride;
        if (stride == 2)
            picked<2>(from, last - first, to + first);
        else
            for (int64_t i = 0; i < last - first; ++i) to[first + i] = from[i * stride];
        if (last < count) clear<L>(to + last, count - last);
    }
}

// Images → inputs [columns, WIDTH], the next columns of the weight. What is beyond the tile's lanes is zero.
template <int L, int WIDTH>
__attribute__((noinline)) void gather_images(const Task& task, Gathering& g, uint64_t columns, float* inputs, float* window) {
    const SparsifyConvolution& s = *task.images;
    const uint64_t area = s.height * s.width, size = window_of(s, WIDTH);
    const float* const end = task.x + s.images * s.channels * area;
    for (; columns > 0; --columns, inputs += WIDTH) {
        const float* channel = task.x + g.channel * area;
        if (!g.direct && g.y == 0 && g.x == 0 && g.channel % CHANNELS == 0)  // several, so that no load waits for a store
            for (int64_t c = 0; c < CHANNELS && g.channel + c < s.channels; ++c)
                for (uint32_t i = 0; i < g.line_count; ++i)
                    fill<L>(s, g.read, g.lines[i], channel + c * area, end, window + c * size + g.lines[i].at);
        const float* from = (g.direct ? channel : window + g.channel % CHANNELS * size) + g.column;
        const uint64_t* const at = g.from[g.y];
        const uint64_t phase = g.phase;
        if (!g.direct || end - from >= static_cast<ptrdiff_t>(g.furthest + L)) {
            for (uint32_t m = 0, moves = g.moves; m < moves; ++m)
                store<L>(inputs + g.to[m], load<L>(from + at[m] + phase * g.span[m]));
        } else {  // nothing is read beyond the last image
            for (uint32_t m = 0; m < g.moves; ++m)
                for (uint32_t i = 0; i < g.size[m]; ++i) inputs[g.to[m] + i] = from[at[m] + i];
        }
        clear<L>(inputs + g.count, WIDTH - static_cast<int64_t>(g.count));
        for (g.phase += s.dilation_width; g.phase >= s.stride_width; g.phase -= s.stride_width) ++g.column;
        if (++g.x < s.kernel_width) continue;
        g.x = g.phase = g.column = 0;
        if (++g.y < s.kernel_height) continue;
        g.y = 0;
        ++g.channel;
    }
}

// sums [rows, WIDTH] → y [images, …, places] from row `begin` on: scale, bias and activation.
template <int L, int WIDTH>
__attribute__((noinline)) void scatter_images(const Task& task, const float* sums, uint64_t begin, uint64_t rows, uint64_t place,
                           uint32_t count) {
    const uint64_t area = task.images->out_height * task.images->out_width, all = header_of(task.packed).rows;
    for (uint32_t lane = 0; lane < count;) {
        const uint64_t at = (place + lane) % area, there = area - at;
        const uint32_t length = count - lane < there ? count - lane : static_cast<uint32_t>(there);
        float* to = task.y + ((place + lane) / area * all + begin) * area + at;
        for (uint64_t r = 0; r < rows; ++r, to += area) {
            const float scale = task.scale ? task.scale[begin + r] : 1.0f, bias = task.bias ? task.bias[begin + r] : 0.0f;
            const float* from = sums + r * WIDTH + lane;
            const auto made = [&](uint32_t i) INLINE_LAMBDA {
                return activated<L>(load<L>(from + i) * scale + bias, task.activation);
            };
            if (length < L) {
                const Floats<L> y = made(0);
                for (uint32_t i = 0; i < length; ++i) to[i] = y[i];
                continue;
            }
            for (uint32_t i = 0; i + L <= length; i += L) store<L>(to + i, made(i));
            if (length % L) store<L>(to + length - L, made(length - L));
        }
        lane += length;
    }
}
