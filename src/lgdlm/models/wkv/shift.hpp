// The token shift of RWKV-7: each token mixed with the one read before it, in up to six proportions at once.
//
//     x_c = x + (x' - x) mu_c          dx = sum_c dx_c (1 - mu_c) + [sum_c dx_c mu_c of the token that was read next]

#pragma once

#include "passes.hpp"

constexpr int MIXES = 6;

// Texts are read from the left, with `before` [rows, width] or nothing before the first token, or from the right; the reading
// starts anew every `span` tokens.
struct ShiftArrays {
    const void *x, *before;
    const float* mu;  // [mixes, width]
    void* mixed[MIXES];
    const void* d_mixed[MIXES];
    void *dx, *d_before;
    float* d_mu;  // [rows, runs, mixes, width]
    int64_t span;
    int32_t mixes, reverse;
};

template <class Number> struct Shift : ShiftArrays {
    const PassShape s;

    const Number* row(const void* p, int64_t i, int64_t t) const { return static_cast<const Number*>(p) + (i * s.length + t) * s.width; }

    // The token read before t, or null where there is none.
    const Number* neighbour(int64_t i, int64_t t) const {
        if (reverse) return t + 1 < s.length && (t + 1) % span ? row(x, i, t + 1) : nullptr;
        if (t % span) return row(x, i, t - 1);
        return t == 0 && before ? static_cast<const Number*>(before) + i * s.width : nullptr;
    }

    // The token whose neighbour t is, or -1.
    int64_t follower(int64_t t) const {
        if (reverse) return t % span ? t - 1 : -1;
        return t + 1 < s.length && (t + 1) % span ? t + 1 : -1;
    }

    void forward(int64_t i, int64_t from, int64_t to) const {
        const int width = int(s.width);
        for (int64_t t = from; t < to; t++) {
            const Number *own = row(x, i, t), *other = neighbour(i, t);
            for (int c = 0; c < width; c += WIDTH) {
                const Lanes here = load(own + c, width - c), off = (other ? load(other + c, width - c) : Lanes{}) - here;
                for (int m = 0; m < mixes; m++)
                    store(const_cast<Number*>(row(mixed[m], i, t)) + c, here + off * load(mu + m * width + c, width - c), width - c);
            }
        }
    }

    void backward(int64_t i, int64_t from, int64_t to, int64_t run) const {
        const int width = int(s.width);
        float* sums = d_mu + run * mixes * width;
        std::fill_n(sums, mixes * width, 0.0f);
        for (int64_t t = from; t < to; t++) {
            const Number *own = row(x, i, t), *other = neighbour(i, t);
            const int64_t next = follower(t);
            const bool first = d_before && t == 0;
            for (int c = 0; c < width; c += WIDTH) {
                const int n = width - c;
                const Lanes off = (other ? load(other + c, n) : Lanes{}) - load(own + c, n);
                Lanes d = {}, passed_on = {};
                for (int m = 0; m < mixes; m++) {
                    const Lanes share = load(mu + m * width + c, n), dm = load(row(d_mixed[m], i, t) + c, n);
                    d += dm * (1.0f - share);
                    if (next >= 0) d += load(row(d_mixed[m], i, next) + c, n) * share;
                    if (first) passed_on += dm * share;
                    add_to(sums + m * width + c, dm * off, n);
                }
                store(const_cast<Number*>(row(dx, i, t)) + c, d, n);
                if (first) store(static_cast<Number*>(d_before) + i * width + c, passed_on, n);
            }
        }
    }
};

extern "C" {

void lgdlm_shift(const PassShape* s, const ShiftArrays* arrays, int backward) {
    auto run = [&](auto number) {
        const Shift<decltype(number)> shift{*arrays, *s};
        each_run(*s, [&](int64_t i, int64_t from, int64_t to, int64_t number_of_run) {
            backward ? shift.backward(i, from, to, number_of_run) : shift.forward(i, from, to);
        });
    };
    s->half ? run(bf16()) : run(float());
}
}
