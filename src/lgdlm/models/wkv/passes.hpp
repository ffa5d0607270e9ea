// The passes of a block around its matrix products and its recurrence: each reads its arguments once and writes once.
//
//     norm       h = normal(x) weight + bias, weight and bias one for all rows or one for each
//     add        x + gate branch
//     relu       max(x, 0)^2
//
// Sums over tokens (the gradients of weight, bias, gate) are made for runs of RUN tokens and added up by the caller, so that
// they do not depend on the number of threads.

#pragma once

#include "row.hpp"

constexpr int64_t RUN = 64;

// Arrays [rows, length, width]; `half`: the branch side is bf16, `half_x`: the residual side is.
struct PassShape {
    int64_t rows, length, width;
    int32_t threads, half, half_x;

    int64_t runs() const { return (length + RUN - 1) / RUN; }
};

// f(row, first token, last token + 1, number of the run) for all runs.
template <class F> static void each_run(const PassShape& s, F f) {
    each(s.rows * s.runs(), s.threads, [&](int64_t i) {
        const int64_t from = i % s.runs() * RUN;
        f(i / s.runs(), from, std::min(from + RUN, s.length), i);
    });
}

static inline void add_to(float* p, Lanes x, int count) { store(p, load(p, count) + x, count); }

// f with the types of the two sides.
template <class F> static void for_types(const PassShape& s, F f) {
    if (s.half_x) s.half ? f(bf16(), bf16()) : f(bf16(), float());
    else s.half ? f(float(), bf16()) : f(float(), float());
}

// weight, bias float [rows or 1, width]: `stride` is 0 for one row. real: bytes [rows, length] or null; padding becomes zero.
struct NormArrays {
    const void* x;
    const float *weight, *bias;
    const uint8_t* real;
    void* out;
    const void* d_out;
    void* dx;
    float *d_weight, *d_bias;  // [rows, runs, width]
    int64_t stride;
    float eps;
};

template <class X, class Number> static void norm_forward(const PassShape& s, const NormArrays& a) {
    const int width = int(s.width);
    each_run(s, [&](int64_t i, int64_t from, int64_t to, int64_t) {
        const float *weight = a.weight + i * a.stride, *bias = a.bias + i * a.stride;
        for (int64_t at = i * s.length + from; at < i * s.length + to; at++) {
            const X* x = static_cast<const X*>(a.x) + at * width;
            Number* out = static_cast<Number*>(a.out) + at * width;
            const Moments of = Moments::of(x, width, a.eps);
            const Lanes here = splat(a.real ? float(a.real[at]) : 1.0f);
            for (int c = 0; c < width; c += WIDTH) {
                const int n = width - c;
                store(out + c, (of.normal(load(x + c, n)) * load(weight + c, n) + load(bias + c, n)) * here, n);
            }
        }
    });
}

template <class X, class Number> static void norm_backward(const PassShape& s, const NormArrays& a) {
    const int width = int(s.width);
    each_run(s, [&](int64_t i, int64_t from, int64_t to, int64_t run) {
        const float* weight = a.weight + i * a.stride;
        float *d_weight = a.d_weight + run * width, *d_bias = a.d_bias + run * width;
        std::fill_n(d_weight, width, 0.0f);
        std::fill_n(d_bias, width, 0.0f);
        for (int64_t at = i * s.length + from; at < i * s.length + to; at++) {
            const X* x = static_cast<const X*>(a.x) + at * width;
            const Number* d_out = static_cast<const Number*>(a.d_out) + at * width;
            const Moments of = Moments::of(x, width, a.eps);
            const Lanes here = splat(a.real ? float(a.real[at]) : 1.0f);
            Lanes mean = {}, along = {};
            for (int c = 0; c < width; c += WIDTH) {
                const int n = width - c;
                const Lanes d = load(d_out + c, n) * here, normal = of.normal(load(x + c, n)), dn = d * load(weight + c, n);
                add_to(d_weight + c, d * normal, n);
                add_to(d_bias + c, d, n);
                mean += dn;
                along += dn * normal;
            }
            const Lanes d_mean = splat(sum(mean) / s.width), d_along = splat(sum(along) / s.width);
            for (int c = 0; c < width; c += WIDTH) {
                const int n = width - c;
                const Lanes dn = load(d_out + c, n) * here * load(weight + c, n);
                store(static_cast<X*>(a.dx) + at * width + c, of.scale * (dn - d_mean - of.normal(load(x + c, n)) * d_along), n);
            }
        }
    });
}

// gate float [rows, width], or null for 1.
struct AddArrays {
    const void *x, *branch;
    const float* gate;
    void* out;
    const void* d_out;
    void* d_branch;
    float* d_gate;  // [rows, runs, width]
};

template <class X, class Number> static void add_forward(const PassShape& s, const AddArrays& a) {
    const int width = int(s.width);
    each_run(s, [&](int64_t i, int64_t from, int64_t to, int64_t) {
        for (int64_t at = (i * s.length + from) * width; at < (i * s.length + to) * width; at += width)
            for (int c = 0; c < width; c += WIDTH) {
                const int n = width - c;
                const Lanes gate = a.gate ? load(a.gate + i * width + c, n) : splat(1.0f);
                const Lanes x = load(static_cast<const X*>(a.x) + at + c, n), branch = load(static_cast<const Number*>(a.branch) + at + c, n);
                store(static_cast<X*>(a.out) + at + c, x + gate * branch, n);
            }
    });
}

template <class X, class Number> static void add_backward(const PassShape& s, const AddArrays& a) {
    const int width = int(s.width);
    each_run(s, [&](int64_t i, int64_t from, int64_t to, int64_t run) {
        if (a.gate) std::fill_n(a.d_gate + run * width, width, 0.0f);
        for (int64_t at = (i * s.length + from) * width; at < (i * s.length + to) * width; at += width)
            for (int c = 0; c < width; c += WIDTH) {
                const int n = width - c;
                const Lanes d = load(static_cast<const X*>(a.d_out) + at + c, n);
                const Lanes gate = a.gate ? load(a.gate + i * width + c, n) : splat(1.0f);
                store(static_cast<Number*>(a.d_branch) + at + c, gate * d, n);
                if (a.gate) add_to(a.d_gate + run * width + c, d * load(static_cast<const Number*>(a.branch) + at + c, n), n);
            }
    });
}

// max(x, 0)^2, and with d its gradient 2 max(x, 0) d. NaN stays NaN.
template <class Number> static void relu(int64_t count, int threads, const Number* x, const Number* d, Number* out) {
    constexpr int64_t PART = 1 << 14;
    each((count + PART - 1) / PART, threads, [&](int64_t i) {
        for (int64_t c = i * PART, end = std::min(c + PART, count); c < end; c += WIDTH) {
            const int n = int(std::min<int64_t>(end - c, WIDTH));
            const Lanes here = load(x + c, n), positive = here <= 0.0f ? Lanes{} : here;
            store(out + c, d ? 2.0f * positive * load(d + c, n) : positive * positive, n);
        }
    });
}

extern "C" {

int64_t lgdlm_run() { return RUN; }

void lgdlm_norm(const PassShape* s, const NormArrays* a, int backward) {
    for_types(*s, [&](auto x, auto out) {
        using X = decltype(x);
        using Number = decltype(out);
        backward ? norm_backward<X, Number>(*s, *a) : norm_forward<X, Number>(*s, *a);
    });
}

void lgdlm_add(const PassShape* s, const AddArrays* a, int backward) {
    for_types(*s, [&](auto x, auto branch) {
        using X = decltype(x);
        using Number = decltype(branch);
        backward ? add_backward<X, Number>(*s, *a) : add_forward<X, Number>(*s, *a);
    });
}

void lgdlm_relu(int64_t count, int threads, int half, const void* x, const void* d, void* out) {
    auto run = [&](auto number) {
        using Number = decltype(number);
        relu(count, threads, static_cast<const Number*>(x), static_cast<const Number*>(d), static_cast<Number*>(out));
    };
    half ? run(bf16()) : run(float());
}
}
