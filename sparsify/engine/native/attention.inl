// Attention without a mask: softmax(scale · q kᵀ) v, for a tile of queries of one head. Queries are the lanes, so that the
// softmax over keys goes from vector to vector, and both products are of scalars (of k and v) and vectors.

constexpr int VECTORS = REGISTERS >= 32 ? 4 : 2, QUERIES = VECTORS * LANES, ROWS = 4;
typedef Floats<LANES> Lanes;

// sums [ROWS, VECTORS] = Σ over i < count of scalar(row, i) × vectors [i, QUERIES].
template <class Scalar>
INLINE void summed(uint64_t count, const float* vectors, Scalar scalar, Lanes (&sums)[ROWS][VECTORS]) {
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int n = 0; n < VECTORS; ++n) sums[row][n] = Lanes{};
    for (uint64_t i = 0; i < count; ++i, vectors += QUERIES) {
        Lanes in[VECTORS];
#pragma GCC unroll 4
        for (int n = 0; n < VECTORS; ++n) in[n] = load<LANES>(vectors + n * LANES);
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; ++row) {
            const float value = scalar(row, i);
#pragma GCC unroll 4
            for (int n = 0; n < VECTORS; ++n) sums[row][n] += value * in[n];
        }
    }
}

// scores [keys, QUERIES] = scale · k q, where q is [width, QUERIES]; returns the largest of each query.
INLINE void score(const Attention& a, const float* k, const float* q, float* scores, Lanes (&most)[VECTORS]) {
    for (int n = 0; n < VECTORS; ++n) most[n] = Lanes{} - __builtin_inff();
    for (uint64_t key = 0; key < a.keys; key += ROWS) {
        const float* rows[ROWS];
        for (uint64_t row = 0; row < ROWS; ++row)  // the last one again where there are no more
            rows[row] = k + static_cast<int64_t>(key + row < a.keys ? key + row : a.keys - 1) * a.k_stride[2];
        Lanes sums[ROWS][VECTORS];
        summed(a.width, q, [&](int row, uint64_t i) INLINE_LAMBDA { return rows[row][i]; }, sums);
        for (int row = 0; row < ROWS && key + row < a.keys; ++row)
            for (int n = 0; n < VECTORS; ++n) {
                const Lanes scaled = sums[row][n] * a.scale;
                most[n] = scaled > most[n] ? scaled : most[n];
                store<LANES>(scores + (key + row) * QUERIES + n * LANES, scaled);
            }
    }
}

// scores = e^(scores - most); returns 1 ÷ their sum for each query. A NaN stays one.
INLINE void exponents(uint64_t keys, const Lanes (&most)[VECTORS], float* scores, Lanes (&scales)[VECTORS]) {
    for (int n = 0; n < VECTORS; ++n) {
        Lanes sum = {};
        for (uint64_t key = 0; key < keys; ++key) {
            float* at = scores + key * QUERIES + n * LANES;
            const Lanes below = load<LANES>(at) - most[n], power = exponential<LANES>(below);
            const Lanes kept = below == below ? power : below;
            sum += kept;
            store<LANES>(at, kept);
        }
        scales[n] = 1.0f / sum;
    }
}

// `scratch` holds (width + keys) × QUERIES + keys × width floats, 64-byte aligned.
void attend(const Attention& a, uint64_t batch, uint64_t head, uint64_t query, float* scratch) {
    const int64_t b = static_cast<int64_t>(batch), h = static_cast<int64_t>(head);
    const float* q = a.q + b * a.q_stride[0] + h * a.q_stride[1] + static_cast<int64_t>(query) * a.q_stride[2];
    const float* k = a.k + b * a.k_stride[0] + h * a.k_stride[1];
    const float* v = a.v + b * a.v_stride[0] + h * a.v_stride[1];
    float* out = a.out + b * a.out_stride[0] + h * a.out_stride[1] + static_cast<int64_t>(query) * a.out_stride[2];
    const uint32_t count = static_cast<uint32_t>(a.queries - query < QUERIES ? a.queries - query : QUERIES);
    float *turned = scratch, *scores = turned + a.width * QUERIES, *values = scores + a.keys * QUERIES;
    gather<LANES, QUERIES>(q, static_cast<uint64_t>(a.q_stride[2]), a.width, count, turned);
    for (uint64_t key = 0; key < a.keys; ++key)  // four columns of v side by side: they are read key after key
        for (uint64_t d = 0; d < a.width; d += ROWS)
            store<4>(values + d * a.keys + key * ROWS, load<4>(v + static_cast<int64_t>(key) * a.v_stride[2] + d));
    Lanes most[VECTORS], scales[VECTORS];
    score(a, k, turned, scores, most);
    exponents(a.keys, most, scores, scales);
    for (uint64_t d = 0; d < a.width; d += ROWS) {
        const float* four = values + d * a.keys;
        Lanes sums[ROWS][VECTORS];
        summed(a.keys, scores, [&](int row, uint64_t i) INLINE_LAMBDA { return four[i * ROWS + row]; }, sums);
        for (int row = 0; row < ROWS; ++row)
            for (int n = 0; n < VECTORS; ++n)
                store<LANES>(turned + (d + row) * QUERIES + n * LANES, sums[row][n] * scales[n]);
    }
    scatter<LANES, QUERIES>(turned, nullptr, NONE, a.width, count, out, static_cast<uint64_t>(a.out_stride[2]));
}
