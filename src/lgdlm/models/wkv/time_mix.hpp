// The time mix of RWKV-7 between its matrix products: from raw signals to the gated answer in one go.
//
//     w = exp(-exp(-1/2) sigmoid(w0 + w~))    q = sigmoid(a0 + a~)    v = v~ + (v_first - v~) sigmoid(v0 + gate~)
//     kk = k~ k_k / |k~ k_k|    k = k~ (1 + (q - 1) k_a)    a = -kk    b = kk q
//     y = WKV(r, w, k, v, a, b)    z = norm(y) weight + bias + (sum r k r_k) v    out = z g
//
// with ~ for what the matrix products gave, float or bfloat16. A token of a head costs a few dozen operations on lines of
// 64 numbers beside the thousands of the recurrence, and the signals are never written to memory.

#pragma once

#include "row.hpp"

// Arrays [rows, length, heads, size] of float or bf16. gate and v_first are null in the first layer; `real`, one byte a
// token, is null where nothing is padding.
struct MixArrays {
    const void *r, *w, *k, *v, *a, *g, *gate, *v_first;
    const uint8_t* real;
    const float* parameters;  // [PARAMETERS, heads, size]
    void* out;
    const void* d_out;
    void *dr, *dw, *dk, *dv, *da, *dg, *d_gate, *d_v_first;
    float* d_parameters;  // [pieces, PARAMETERS, size]
};

enum Parameter { W0, A0, V0, K_K, K_A, R_K, WEIGHT, BIAS, PARAMETERS };

template <int K, class Number> class MixSource : MixArrays {
    static constexpr float MOST_DECAY = 0.60653066f;  // exp(-1/2)
    static constexpr float LEAST_NORM = 1e-12f;
    static constexpr float NORM_EPS = 64e-5f;

    const Reading reading;
    const int size;
    const int64_t piece, first_token;
    alignas(64) float p[PARAMETERS][K] = {}, dp[PARAMETERS][K] = {};
    // what `load` and `gradient` leave for `spread`
    alignas(64) float decay[TOKENS][K], q[TOKENS][K], share[TOKENS][K], kk[TOKENS][K], dz[TOKENS][K];
    float norm[TOKENS], bonus[TOKENS], d_bonus[TOKENS];

  public:
    MixSource(const MixArrays& arrays, const Shape& shape, int64_t piece)
        : MixArrays(arrays), reading(shape.reading(piece)), size(int(shape.size)), piece(piece),
          first_token(piece / shape.heads * shape.length) {
        for (int i = 0; i < PARAMETERS; i++) std::copy_n(parameters + (i * shape.heads + piece % shape.heads) * size, size, p[i]);
    }

    void load(int tile, Tile<K>& x) {
        for (int t = 0; t < reading.count(tile); t++) {
            const int64_t at = reading.at(tile, t);
            const Lanes here = real_at(tile, t);
            Lanes square = {};
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes key = get(k, at, c) * param(K_K, c);
                square += key * key;
                store(kk[t] + c, key);
            }
            norm[t] = std::sqrt(sum(square));
            const Lanes shrink = splat(1 / std::max(norm[t], LEAST_NORM));
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes s = sigmoid(param(W0, c) + get(w, at, c)), rate = sigmoid(param(A0, c) + get(a, at, c));
                const Lanes n = ::load(kk[t] + c) * shrink;
                store(decay[t] + c, s);
                store(q[t] + c, rate);
                store(kk[t] + c, n);
                store(x.r[t] + c, get(r, at, c));
                store(x.w[t] + c, exp(s * here * -MOST_DECAY));
                store(x.k[t] + c, get(k, at, c) * (1.0f + (rate - 1.0f) * param(K_A, c)) * here);
                store(x.a[t] + c, -n * here);
                store(x.b[t] + c, n * rate * here);
                Lanes value = get(v, at, c);
                if (gate) {
                    const Lanes part = sigmoid(param(V0, c) + get(gate, at, c));
                    value += (get(v_first, at, c) - value) * part;
                    store(share[t] + c, part);
                }
                store(x.v[t] + c, value);
            }
        }
    }

    void answer(int tile, const Tile<K>& x, const float (*y)[K]) {
        for (int t = 0; t < reading.count(tile); t++) {
            const int64_t at = reading.at(tile, t);
            const Moments of = Moments::of(y[t], size, NORM_EPS);
            const Lanes bonus_t = splat(bonus_of(x, t));
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes z = of.normal(::load(y[t] + c)) * param(WEIGHT, c) + param(BIAS, c) + bonus_t * ::load(x.v[t] + c);
                put(out, at, c, z * get(g, at, c));
            }
        }
    }

    void gradient(int tile, const Tile<K>& x, const float (*y)[K], float (*dy)[K]) {
        for (int t = 0; t < reading.count(tile); t++) {
            const int64_t at = reading.at(tile, t);
            const Moments of = Moments::of(y[t], size, NORM_EPS);
            bonus[t] = bonus_of(x, t);
            Lanes d_bonus_t = {}, mean = {}, along = {};
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes normal = of.normal(::load(y[t] + c)), value = ::load(x.v[t] + c), d = get(d_out, at, c);
                const Lanes z = normal * param(WEIGHT, c) + param(BIAS, c) + bonus[t] * value, d_z = d * get(g, at, c);
                put(dg, at, c, d * z);
                store(dz[t] + c, d_z);
                learn(WEIGHT, c, d_z * normal);
                learn(BIAS, c, d_z);
                d_bonus_t += d_z * value;
                mean += d_z * param(WEIGHT, c);
                along += d_z * param(WEIGHT, c) * normal;
            }
            d_bonus[t] = sum(d_bonus_t);
            const Lanes d_mean = splat(sum(mean) / size), d_along = splat(sum(along) / size);
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes d_normal = ::load(dz[t] + c) * param(WEIGHT, c);
                store(dy[t] + c, first(of.scale * (d_normal - d_mean - of.normal(::load(y[t] + c)) * d_along), size - c));
            }
        }
    }

    void spread(int tile, const Tile<K>& x, const Tile<K>& d) {
        for (int t = 0; t < reading.count(tile); t++) {
            const int64_t at = reading.at(tile, t);
            const Lanes here = real_at(tile, t), d_bonus_t = splat(d_bonus[t]);
            alignas(64) float d_kk[K];
            Lanes along = {};
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes dn = (::load(d.b[t] + c) * ::load(q[t] + c) - ::load(d.a[t] + c)) * here;
                store(d_kk + c, dn);
                along += dn * ::load(kk[t] + c);
            }
            const Lanes dot = splat(norm[t] > LEAST_NORM ? sum(along) : 0), shrink = splat(1 / std::max(norm[t], LEAST_NORM));
            for (int c = 0; c < K; c += WIDTH) {
                const Lanes key = get(k, at, c), rate = ::load(q[t] + c), s = ::load(decay[t] + c), n = ::load(kk[t] + c);
                const Lanes R = ::load(x.r[t] + c), k_x = ::load(x.k[t] + c);
                put(dr, at, c, ::load(d.r[t] + c) + d_bonus_t * k_x * param(R_K, c));
                learn(R_K, c, d_bonus_t * R * k_x);

                const Lanes dk_x = (::load(d.k[t] + c) + d_bonus_t * R * param(R_K, c)) * here;
                const Lanes d_key = (::load(d_kk + c) - n * dot) * shrink;
                put(dk, at, c, dk_x * (1.0f + (rate - 1.0f) * param(K_A, c)) + d_key * param(K_K, c));
                learn(K_K, c, d_key * key);
                learn(K_A, c, dk_x * key * (rate - 1.0f));

                const Lanes d_rate = (::load(d.b[t] + c) * n * here + dk_x * key * param(K_A, c)) * rate * (1.0f - rate);
                put(da, at, c, d_rate);
                learn(A0, c, d_rate);
                const Lanes d_decay = ::load(d.w[t] + c) * here * -MOST_DECAY * s * (1.0f - s);
                put(dw, at, c, d_decay);
                learn(W0, c, d_decay);

                const Lanes d_value = ::load(d.v[t] + c) + ::load(dz[t] + c) * bonus[t];
                if (!gate) {
                    put(dv, at, c, d_value);
                    continue;
                }
                const Lanes part = ::load(share[t] + c), d_part = d_value * (get(v_first, at, c) - get(v, at, c)) * part * (1.0f - part);
                put(dv, at, c, d_value * (1.0f - part));
                put(d_v_first, at, c, d_value * part);
                put(d_gate, at, c, d_part);
                learn(V0, c, d_part);
            }
        }
    }

    void finish() const {
        for (int i = 0; i < PARAMETERS; i++) std::copy_n(dp[i], size, d_parameters + (piece * PARAMETERS + i) * size);
    }

    void fetch(int tile, int t, bool backward) const {
        if (t >= reading.count(tile)) return;
        const int64_t at = reading.at(tile, t);
        for (const void* from : {r, w, k, v, a, g, gate, v_first, backward ? d_out : nullptr})
            for (int c = 0; from && c < size; c += 64 / int(sizeof(Number))) __builtin_prefetch(static_cast<const Number*>(from) + at + c);
    }

  private:
    float bonus_of(const Tile<K>& x, int t) const {
        Lanes total = {};
        for (int c = 0; c < K; c += WIDTH) total += ::load(x.r[t] + c) * ::load(x.k[t] + c) * param(R_K, c);
        return sum(total);
    }

    Lanes get(const void* from, int64_t at, int c) const { return ::load(static_cast<const Number*>(from) + at + c, size - c); }
    void put(void* to, int64_t at, int c, Lanes x) const { store(static_cast<Number*>(to) + at + c, x, size - c); }
    Lanes param(Parameter i, int c) const { return ::load(p[i] + c); }
    void learn(Parameter i, int c, Lanes x) { store(dp[i] + c, ::load(dp[i] + c) + x); }
    Lanes real_at(int tile, int t) const { return splat(real ? float(real[first_token + reading.token(tile, t)]) : 1.0f); }
};

extern "C" {

void lgdlm_mix_forward(const Shape* shape, const MixArrays* arrays, const Memory* memory, int half) {
    for_width(shape->size, [&](auto width) {
        each(shape->pieces(), shape->threads, [&](int64_t piece) {
            auto run = [&](auto source) { forward_row<decltype(width)::value>(source, *shape, piece, *memory); };
            half ? run(MixSource<decltype(width)::value, bf16>(*arrays, *shape, piece)) : run(MixSource<decltype(width)::value, float>(*arrays, *shape, piece));
        });
    });
}

void lgdlm_mix_backward(const Shape* shape, const MixArrays* arrays, const Memory* memory, int half) {
    for_width(shape->size, [&](auto width) {
        each(shape->pieces(), shape->threads, [&](int64_t piece) {
            auto run = [&](auto source) { backward_row<decltype(width)::value>(source, *shape, piece, *memory); };
            half ? run(MixSource<decltype(width)::value, bf16>(*arrays, *shape, piece)) : run(MixSource<decltype(width)::value, float>(*arrays, *shape, piece));
        });
    });
}
}
