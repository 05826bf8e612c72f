// Vectors of 4, 8 or 16 floats, by the vector extensions of GCC and Clang: the compiler makes AVX, SSE or NEON of them.

template <int L>
struct Vector;

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

// `Loose` may lie at any address of a float; `low` and `high` take the elements of two vectors in turn.
#define VECTOR(L, LOW, HIGH)                                                             \
    template <>                                                                          \
    struct Vector<L> {                                                                   \
        typedef float Floats __attribute__((vector_size(L * 4)));                        \
        typedef float Loose __attribute__((vector_size(L * 4), aligned(4), may_alias));  \
        typedef int32_t Ints __attribute__((vector_size(L * 4)));                        \
        static INLINE Floats low(Floats a, Floats b) { return SHUFFLE(a, b, LOW); }      \
        static INLINE Floats high(Floats a, Floats b) { return SHUFFLE(a, b, HIGH); }    \
    };
#define LIST(...) __VA_ARGS__
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

VECTOR(4, LIST(0, 4, 1, 5), LIST(2, 6, 3, 7))
#if LANES >= 8
VECTOR(8, LIST(0, 8, 1, 9, 2, 10, 3, 11), LIST(4, 12, 5, 13, 6, 14, 7, 15))
#endif
#if LANES >= 16
VECTOR(16, LIST(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
       LIST(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31))
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

// Transposes L vectors of L floats in place: each round takes the elements of the two halves in turn.
template <int L>
INLINE void transpose(Floats<L> (&rows)[L]) {
#pragma GCC unroll 4
    for (int round = 1; round < L; round *= 2) {
        Floats<L> next[L];
#pragma GCC unroll 8
        for (int i = 0; i < L / 2; ++i) {
            next[2 * i] = Vector<L>::low(rows[i], rows[i + L / 2]);
            next[2 * i + 1] = Vector<L>::high(rows[i], rows[i + L / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) rows[i] = next[i];
    }
}
