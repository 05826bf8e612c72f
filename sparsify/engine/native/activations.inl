// Activations of a vector, in float32. A NaN stays one.

template <int L>
INLINE Floats<L> between(Floats<L> x, float low, float high) {
    const Floats<L> least = Floats<L>{} + low, most = Floats<L>{} + high;
    x = x < least ? least : x;
    return x > most ? most : x;
}

// eˣ, within 2 units in the last place; x is cut to [-87, 88]. Cephes' polynomial after reduction by ln 2.
template <int L>
INLINE Floats<L> exponential(Floats<L> x) {
    typedef typename Vector<L>::Ints Ints;
    x = between<L>(x, -87.0f, 88.0f);
    const Floats<L> shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 · 2²³ rounds to a whole number
    const Floats<L> whole = shifted - 12582912.0f;
    const Floats<L> r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Floats<L> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    return (Floats<L>)((Ints)y + ((Ints)shifted << 23));  // casts of bits; the low ones of `shifted` are the whole number
}

// The error function, within 4e-7 of the true value: a rational approximation on [-4, 4].
template <int L>
INLINE Floats<L> error_function(Floats<L> x) {
    x = between<L>(x, -4.0f, 4.0f);
    const Floats<L> s = x * x;
    Floats<L> p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * s + -2.10102402082508e-06f;
    p = p * s + -5.69250639462346e-05f;
    p = p * s + -7.34990630326855e-04f;
    p = p * s + -2.95459980854025e-03f;
    p = p * s + -1.60960333262415e-02f;
    Floats<L> q = s * -1.45660718464996e-05f + -2.13374055278905e-04f;
    q = q * s + -1.68282697438203e-03f;
    q = q * s + -7.37332916720468e-03f;
    q = q * s + -1.42647390514189e-02f;
    return x * p / q;
}

template <int L>
INLINE Floats<L> activated(Floats<L> x, uint32_t activation) {
    const Floats<L> zero = {};
    switch (activation) {
        case RELU:
            return x < zero ? zero : x;
        case GELU:
            return x * 0.5f * (1.0f + error_function<L>(x * 0.70710678f));
        case GELU_TANH:
            return x / (1.0f + exponential<L>(x * (x * x * -0.0713548163f + -1.59576912f)));
        case SILU:
            return x / (1.0f + exponential<L>(-x));
        default:
            return x;
    }
}
