// Sixteen numbers at once: what the kernels compute with, in the vector extension of GCC and Clang.
//
// Compiled for AVX-512 a `Lanes` is one register, for AVX2 two, for plain x86-64 or ARM four: the source is the same.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

constexpr int WIDTH = 16;
typedef float Lanes __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));

// Vectors of Lanes that fit in the registers beside everything else: the recurrence works on strips of so many columns.
#if defined(__AVX512F__)
constexpr int STRIP = 4;
#else
constexpr int STRIP = 1;
#endif

struct bf16 {
    uint16_t bits;
};

template <class To, class From> static inline To bit_cast(From x) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

static inline Lanes splat(float x) { return x - Lanes{}; }

static inline Lanes load(const float* p) {
    Lanes x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

static inline void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof x); }

static inline Lanes load(const bf16* p) {
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return bit_cast<Lanes>(__builtin_convertvector(h, Bits) << 16);
}

// To the nearest, ties to even; NaN stays NaN.
static inline void store(bf16* p, Lanes x) {
#if defined(__AVX512BF16__)
    const __m256bh h = _mm512_cvtneps_pbh(bit_cast<__m512>(x));
#else
    const Bits u = bit_cast<Bits>(x);
    const Bits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Halves h = __builtin_convertvector(x == x ? rounded : rounded - rounded + 0x7fc0u, Halves);
#endif
    std::memcpy(p, &h, sizeof h);
}

// The first `count` numbers of 16, the others zero: heads and widths that are no multiple of 16.
template <class Number> static inline Lanes load(const Number* p, int count) {
    if (count >= WIDTH) return load(p);
    Number some[WIDTH] = {};
    if (count > 0) std::memcpy(some, p, count * sizeof(Number));
    return load(some);
}

template <class Number> static inline void store(Number* p, Lanes x, int count) {
    if (count >= WIDTH) return store(p, x);
    Number some[WIDTH];
    store(some, x);
    if (count > 0) std::memcpy(p, some, count * sizeof(Number));
}

// The first `count` lanes, the others zero.
static inline Lanes first(Lanes x, int count) {
    const Integers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lane < count ? x : Lanes{};
}

static inline float sum(Lanes x) {
    float total = 0;
    for (int i = 0; i < WIDTH; i++) total += x[i];
    return total;
}

// exp to 2 units in the last place: x = n log 2 + f, |f| <= log(2)/2, a polynomial of f, and n into the exponent.
static inline Lanes exp(Lanes x) {
    x = x < splat(-87.0f) ? splat(-87.0f) : x > splat(88.0f) ? splat(88.0f) : x;
    const Lanes shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Lanes n = (x * splat(1.44269504f) + shift) - shift;
    const Lanes f = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    Lanes y = splat(1.9875691500e-4f);
    y = y * f + splat(1.3981999507e-3f);
    y = y * f + splat(8.3334519073e-3f);
    y = y * f + splat(4.1665795894e-2f);
    y = y * f + splat(1.6666665459e-1f);
    y = y * f + splat(5.0000001201e-1f);
    y = y * f * f + f + splat(1.0f);
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return y * bit_cast<Lanes>(power);
}

static inline Lanes sigmoid(Lanes x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

// Lanes of p (0 to 15) and of q (16 to 31): the one builtin is clang's, and of GCC only since 12; the other is in every GCC.
template <int... I> static inline Lanes pick(Lanes p, Lanes q) {
#ifdef __clang__
    return __builtin_shufflevector(p, q, I...);
#else
    return __builtin_shuffle(p, q, Integers{I...});
#endif
}

// Two rows side by side in blocks of D lanes, first their even blocks and then their odd ones: the step of a transposition.
template <int D> static inline void interleave(Lanes& x, Lanes& y) {
    const Lanes p = x, q = y;
    if constexpr (D == 8) {
        x = pick<0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23>(p, q);
        y = pick<8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31>(p, q);
    } else if constexpr (D == 4) {
        x = pick<0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27>(p, q);
        y = pick<4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31>(p, q);
    } else if constexpr (D == 2) {
        x = pick<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(p, q);
        y = pick<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(p, q);
    } else {
        x = pick<0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30>(p, q);
        y = pick<1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31>(p, q);
    }
}

template <int D> static inline void transpose_blocks(Lanes* rows) {
    for (int i = 0; i < WIDTH; i++)
        if (!(i & D)) interleave<D>(rows[i], rows[i + D]);
}

// 16 x 16 in place: blocks of 8 change places, then blocks of 4 within them, of 2, of 1.
static inline void transpose(Lanes* rows) {
    transpose_blocks<8>(rows);
    transpose_blocks<4>(rows);
    transpose_blocks<2>(rows);
    transpose_blocks<1>(rows);
}

template <int D> static inline void add_blocks(Lanes* rows) {
    for (int i = 0; i < D; i++) {
        interleave<D>(rows[i], rows[i + D]);
        rows[i] += rows[i + D];
    }
}

// Sixteen sums at once: lane i of the answer is the sum of the lanes of rows[i]; the rows are used up.
static inline Lanes sums(Lanes* rows) {
    add_blocks<8>(rows);
    add_blocks<4>(rows);
    add_blocks<2>(rows);
    add_blocks<1>(rows);
    return rows[0];
}

// Mean and reciprocal standard deviation of n numbers.
struct Moments {
    Lanes mean, scale;

    template <class Number> static Moments of(const Number* x, int n, float eps) {
        Lanes total = {}, square = {};
        for (int c = 0; c < n; c += WIDTH) total += load(x + c, n - c);
        const Lanes mean = splat(sum(total) / float(n));
        for (int c = 0; c < n; c += WIDTH) {
            const Lanes off = first(load(x + c, n - c) - mean, n - c);
            square += off * off;
        }
        return {mean, splat(1 / std::sqrt(sum(square) / float(n) + eps))};
    }

    Lanes normal(Lanes x) const { return (x - mean) * scale; }
};

// Numbers too small for full precision count as zero while this lives: processors handle them a hundred times slower.
struct NoSubnormals {
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    NoSubnormals() { _mm_setcsr(before | 0x8040); }
    ~NoSubnormals() { _mm_setcsr(before); }
#else
    NoSubnormals() {}
#endif
};
