// Vectors of 4, 8 or 16 floats, by the vector extensions of GCC and Clang: the compiler makes AVX, SSE or NEON of them.

template <int L>
struct Vector;

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

// `Loose` may lie at any address of a float. `low` and `high` take the elements of two vectors in turn, `first` and `second`
// pairs of elements, each within four elements.
#define VECTOR(L, LOW, HIGH, FIRST, SECOND)                                                 \
    template <>                                                                             \
    struct Vector<L> {                                                                      \
        typedef float Floats __attribute__((vector_size(L * 4)));                           \
        typedef float Loose __attribute__((vector_size(L * 4), aligned(4), may_alias));     \
        typedef int32_t Ints __attribute__((vector_size(L * 4)));                           \
        static INLINE Floats low(Floats a, Floats b) { return SHUFFLE(a, b, LOW); }         \
        static INLINE Floats high(Floats a, Floats b) { return SHUFFLE(a, b, HIGH); }       \
        static INLINE Floats first(Floats a, Floats b) { return SHUFFLE(a, b, FIRST); }     \
        static INLINE Floats second(Floats a, Floats b) { return SHUFFLE(a, b, SECOND); }   \
    };
#define LIST(...) __VA_ARGS__
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

VECTOR(4, LIST(0, 4, 1, 5), LIST(2, 6, 3, 7), LIST(0, 1, 4, 5), LIST(2, 3, 6, 7))
#if LANES >= 8
VECTOR(8, LIST(0, 8, 1, 9, 4, 12, 5, 13), LIST(2, 10, 3, 11, 6, 14, 7, 15), LIST(0, 1, 8, 9, 4, 5, 12, 13),
       LIST(2, 3, 10, 11, 6, 7, 14, 15))
#endif
#if LANES >= 16
VECTOR(16, LIST(0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29),
       LIST(2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31),
       LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
       LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#endif

template <int L>
using Floats = typename Vector<L>::Floats;

template <int L>
INLINE Floats<L> load(const float* from) {
    return *reinterpret_cast<const typename Vector<L>::Loose*>(from);
}
template <int L>
INLINE void store(float* to, Floats<L> what) {
    *reinterpret_cast<typename Vector<L>::Loose*>(to) = what;
}

// Vectors of four, one after the other in one vector.
INLINE Floats<4> joined(const Floats<4> (&parts)[1]) { return parts[0]; }
#if LANES >= 8
INLINE Floats<8> joined(const Floats<4> (&parts)[2]) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(parts[0]), parts[1], 1);
}
#endif
#if LANES >= 16
INLINE Floats<16> joined(const Floats<4> (&parts)[4]) {
    __m512 found = _mm512_castps128_ps512(parts[0]);
    found = _mm512_insertf32x4(found, parts[1], 1);
    found = _mm512_insertf32x4(found, parts[2], 2);
    return _mm512_insertf32x4(found, parts[3], 3);
}
#endif

// Four columns of L rows, `stride` floats apart, as four vectors; of the rows only `there` are there, the others are zero.
// (What goes into a vector in fours is loaded into its place: half of a transposition is done by loads.)
template <int L>
INLINE void columns_of(const float* from, size_t stride, int there, Floats<L> (&columns)[4]) {
    typedef Vector<L> V;
    Floats<L> rows[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        Floats<4> parts[L / 4];
#pragma GCC unroll 4
        for (int j = 0; j < L / 4; ++j)
            parts[j] = i + 4 * j < there ? load<4>(from + (i + 4 * j) * stride) : Floats<4>{};
        rows[i] = joined(parts);
    }
    const Floats<L> a = V::low(rows[0], rows[1]), b = V::low(rows[2], rows[3]);
    const Floats<L> c = V::high(rows[0], rows[1]), d = V::high(rows[2], rows[3]);
    columns[0] = V::first(a, b);
    columns[1] = V::second(a, b);
    columns[2] = V::first(c, d);
    columns[3] = V::second(c, d);
}
