// Which keys the queries of a tile attend to. What nobody attends to (padding, what is after a tile where attention is causal)
// leaves the list, and costs nothing; what some attend to has a bit for each query.

constexpr int EIGHTS = QUERIES / 8;  // a byte has the bits of eight queries

struct Key {
    uint32_t number;
    uint32_t all;  // not 0: every query of the tile attends to it
};

struct Attended {
    uint64_t count;
    const Key* keys;      // null: all keys, and every query attends to them
    const uint8_t* bits;  // [EIGHTS, stride]
    uint64_t stride;
};

// bits [keys]: that of query i is set where rows[i], of bytes `step` apart, is not 0.
INLINE void bits_of(const uint8_t* const (&rows)[8], int64_t step, uint64_t keys, uint8_t* __restrict bits) {
    for (uint64_t key = 0; key < keys; ++key) {
        uint8_t found = 0;
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) found |= rows[i][static_cast<int64_t>(key) * step] ? uint8_t(1 << i) : uint8_t(0);
        bits[key] = found;
    }
}

// Bits of eight queries from `query` on, of which the first `there` are there; the last of them stands for the others.
INLINE void eight_of(const SparsifyAttention& a, const uint8_t* mask, uint64_t query, uint64_t there, uint64_t keys,
                     uint8_t* bits) {
    if (a.mask) {
        const uint8_t* rows[8];
        for (uint64_t i = 0; i < 8; ++i)
            rows[i] = mask + static_cast<int64_t>(query + (i < there ? i : there - 1)) * a.mask_stride[2];
        if (a.mask_stride[3] == 1)  // a loop of its own, of vectors
            bits_of(rows, 1, keys, bits);
        else
            bits_of(rows, a.mask_stride[3], keys, bits);
    } else {
        for (uint64_t key = 0; key < keys; ++key) bits[key] = 255;
    }
    if (!a.causal) return;
    for (uint64_t key = query + 1; key < keys; ++key)
        bits[key] = key < query + 8 ? static_cast<uint8_t>(bits[key] & 255u << (key - query)) : uint8_t(0);
}

// `keys` holds a.keys of them, `bits` (EIGHTS + 2) × a.keys.
INLINE Attended attended_by(const SparsifyAttention& a, const uint8_t* mask, uint64_t query, uint32_t count, Key* keys,
                            uint8_t* bits) {
    if (!a.mask && !a.causal) return {a.keys, nullptr, nullptr, 0};
    const uint64_t end = a.causal && query + count < a.keys ? query + count : a.keys;
    uint8_t *some = bits + EIGHTS * end, *all = some + end;
    for (int eight = 0; eight < EIGHTS; ++eight) {
        const uint64_t first = 8u * eight < count ? 8u * eight : (count - 1) / 8 * 8;  // the last eight again
        uint8_t* __restrict mine = bits + eight * end;
        eight_of(a, mask, query + first, count - first, end, mine);
        for (uint64_t key = 0; key < end; ++key) {
            some[key] = eight ? some[key] | mine[key] : mine[key];
            all[key] = eight ? all[key] & mine[key] : mine[key];
        }
    }
    uint64_t found = 0;
    for (uint64_t key = 0; key < end; ++key) {
        keys[found] = {static_cast<uint32_t>(key), all[key] == 255};
        found += some[key] != 0;
    }
    return {found, keys, bits, end};
}

// The scores of vector n of a tile with a key: -∞ where a query does not attend to it.
INLINE Lanes hidden(const Attended& attended, uint32_t key, int n, Lanes scores) {
    typedef Vector<LANES>::Ints Ints;
    Ints mine;
    for (int lane = 0; lane < LANES; ++lane) mine[lane] = 1 << lane;
    const uint8_t* bits = attended.bits + n * LANES / 8 * attended.stride + key;
    int32_t these = bits[0] >> n * LANES % 8;
    if (LANES > 8) these |= bits[attended.stride] << 8;
    return ((Ints{} + these) & mine) != 0 ? scores : Lanes{} - __builtin_inff();
}
