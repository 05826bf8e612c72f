// Attention: softmax(scale · q kᵀ) v, for a tile of queries of one head. Queries are the lanes, so that the softmax over keys
// goes from vector to vector, and both products are of scalars (of k and v) and vectors.

constexpr int VECTORS = REGISTERS >= 32 ? 4 : 2, QUERIES = VECTORS * LANES, ROWS = 4;
typedef Floats<LANES> Lanes;

#include "attended.inl"

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

// scores [keys, QUERIES] = scale · k q, of the keys that are attended to, where q is [width, QUERIES]; returns the largest of
// each query.
INLINE void score(const SparsifyAttention& a, const Attended& attended, const float* k, const float* q, float* scores,
                  Lanes (&most)[VECTORS]) {
    const uint64_t count = attended.count;
    for (int n = 0; n < VECTORS; ++n) most[n] = Lanes{} - __builtin_inff();
    for (uint64_t first = 0; first < count; first += ROWS) {
        Key keys[ROWS];
        const float* rows[ROWS];
        for (uint64_t row = 0; row < ROWS; ++row) {
            const uint64_t at = first + row < count ? first + row : count - 1;  // the last one again where there are no more
            keys[row] = attended.keys ? attended.keys[at] : Key{static_cast<uint32_t>(at), 1};
            rows[row] = k + static_cast<int64_t>(keys[row].number) * a.k_stride[2];
        }
        Lanes sums[ROWS][VECTORS];
        summed(a.width, q, [&](int row, uint64_t i) INLINE_LAMBDA { return rows[row][i]; }, sums);
        for (int row = 0; row < ROWS && first + row < count; ++row)
            for (int n = 0; n < VECTORS; ++n) {
                Lanes scaled = sums[row][n] * a.scale;
                if (!keys[row].all) scaled = hidden(attended, keys[row].number, n, scaled);
                most[n] = scaled > most[n] ? scaled : most[n];
                store<LANES>(scores + (first + row) * QUERIES + n * LANES, scaled);
            }
    }
}

// scores = e^(scores - most); returns 1 ÷ their sum for each query, or 0 where none is above -∞, as torch does. A NaN stays
// one.
INLINE void exponents(uint64_t keys, const Lanes (&most)[VECTORS], float* scores, Lanes (&scales)[VECTORS]) {
    const Lanes nothing = {}, least = nothing - __builtin_inff();
    for (int n = 0; n < VECTORS; ++n) {
        Lanes sum = {};
        for (uint64_t key = 0; key < keys; ++key) {
            float* at = scores + key * QUERIES + n * LANES;
            const Lanes found = load<LANES>(at), below = found - most[n], power = exponential<LANES>(below);
            const Lanes number = below == below ? power : below, kept = found == least ? nothing : number;
            sum += kept;
            store<LANES>(at, kept);
        }
        scales[n] = sum == nothing ? nothing : 1.0f / sum;
    }
}

// `scratch` holds what attention.cpp says, 64-byte aligned.
void attend(const SparsifyAttention& a, uint64_t batch, uint64_t head, uint64_t query, float* scratch) {
    const int64_t b = static_cast<int64_t>(batch), h = static_cast<int64_t>(head), shared = static_cast<int64_t>(head / a.group);
    const auto of = [](const void* from) INLINE_LAMBDA { return static_cast<const float*>(from); };
    const float* q = of(a.q) + b * a.q_stride[0] + h * a.q_stride[1] + static_cast<int64_t>(query) * a.q_stride[2];
    const float* k = of(a.k) + b * a.k_stride[0] + shared * a.k_stride[1];
    const float* v = of(a.v) + b * a.v_stride[0] + shared * a.v_stride[1];
    float* out = static_cast<float*>(a.out) + b * a.out_stride[0] + h * a.out_stride[1] +
                 static_cast<int64_t>(query) * a.out_stride[2];
    const uint8_t* mask = a.mask ? a.mask + b * a.mask_stride[0] + h * a.mask_stride[1] : nullptr;
    const uint32_t count = static_cast<uint32_t>(a.queries - query < QUERIES ? a.queries - query : QUERIES);
    float *turned = scratch, *scores = turned + a.width * QUERIES, *values = scores + a.keys * QUERIES;
    Key* keys = reinterpret_cast<Key*>(values + a.keys * a.width);
    const Attended attended = attended_by(a, mask, query, count, keys, reinterpret_cast<uint8_t*>(keys + a.keys));
    gather<LANES, QUERIES>(q, static_cast<uint64_t>(a.q_stride[2]), a.width, count, turned);
    for (uint64_t i = 0; i < attended.count; ++i) {  // four columns of v side by side: they are read key after key
        const float* from = v + static_cast<int64_t>(attended.keys ? attended.keys[i].number : i) * a.v_stride[2];
        for (uint64_t d = 0; d < a.width; d += ROWS)
            store<4>(values + d * attended.count + i * ROWS, load<4>(from + d));
    }
    Lanes most[VECTORS], scales[VECTORS];
    score(a, attended, k, turned, scores, most);
    exponents(attended.count, most, scores, scales);
    for (uint64_t d = 0; d < a.width; d += ROWS) {
        const float* four = values + d * attended.count;
        Lanes sums[ROWS][VECTORS];
        summed(attended.count, scores, [&](int row, uint64_t i) INLINE_LAMBDA { return four[i * ROWS + row]; }, sums);
        for (int row = 0; row < ROWS; ++row)
            for (int n = 0; n < VECTORS; ++n)
                store<LANES>(turned + (d + row) * QUERIES + n * LANES, sums[row][n] * scales[n]);
    }
    scatter<LANES, QUERIES>(turned, nullptr, NONE, a.width, count, out, static_cast<uint64_t>(a.out_stride[2]));
}
