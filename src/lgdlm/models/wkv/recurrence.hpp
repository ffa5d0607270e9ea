// WKV-7 over a tile of tokens: values and hand-written gradients.
//
//     S_t = S_{t-1} diag(w_t) + u_t b_t^T + v_t k_t^T,   u_t = S_{t-1} a_t,   y_t = S_t r_t         w_t = exp(log w_t)
//
// One (row, head) is one piece of work. Its tokens go by in tiles of TOKENS, whose signals are laid out once in the first
// cache; the state is K x K floats that stay there.
//
// Forward, the state is kept as S[k][v], sixteen columns v a vector. A pass over k updates S_t, adds up y_t, and adds up
// u_{t+1} = S_t a_{t+1} on the way, so that a token is one pass.
//
// Backward needs all states again: forward keeps the one before each tile, and `replay` repeats the tile from it. With D_t
// the whole gradient of S_t, now as rows v of vectors along k, and e_t = D_t b_t the gradient of u_t,
//
//     dk_t = D_t^T v_t    db_t = D_t^T u_t    dv_t = D_t k_t    da_t = S_{t-1}^T e_t    dr_t = S_t^T dy_t
//     D_{t-1} = D_t diag(w_t) + e_t a_t^T + dy_{t-1} r_{t-1}^T
//
// again one pass a token: it makes D_{t-1} from D_t and adds up dv and e of the token before. The decay's gradient
// d log w_t = w_t colsum(D_t S_{t-1}) needs no pass: with P_t = colsum(D_t S_t), the equations above give
//
//     d log w_t = P_t - b_t db_t - k_t dk_t       P_{t-1} = d log w_t + a_t da_t + r_{t-1} dr_{t-1}
//
// where P is computed anew at the end of every tile, so that no error is carried further.

#pragma once

#include "lanes.hpp"

constexpr int TOKENS = 16;

template <int K> struct Tile {
    alignas(64) float r[TOKENS][K], w[TOKENS][K], k[TOKENS][K], v[TOKENS][K], a[TOKENS][K], b[TOKENS][K];
};

constexpr int WIDEST = 128;                           // channels of a head
template <int K> constexpr int STATE = K * K + WIDTH;  // floats from one state to the next: they start in different sets of the cache
alignas(64) static const float NOTHING[WIDEST] = {};

template <int K> static void transpose(const float* from, float* to) {
    for (int i = 0; i < K; i += WIDTH)
        for (int j = 0; j < K; j += WIDTH) {
            Lanes block[WIDTH];
            for (int l = 0; l < WIDTH; l++) block[l] = load(from + (j + l) * K + i);
            transpose(block);
            for (int l = 0; l < WIDTH; l++) store(to + (i + l) * K + j, block[l]);
        }
}

// n tokens from S, columns v of Q vectors. `fetch(t)` asks for memory that will be needed soon.
template <int K, int Q, class Fetch>
static void advance_strip(const Tile<K>& x, int n, float* S, float (*y)[K], float (*u)[K], int from, Fetch fetch) {
    Lanes U[Q] = {};
    for (int j = 0; j < K; j++)
        for (int q = 0; q < Q; q++) U[q] += splat(x.a[0][j]) * load(S + j * K + q * WIDTH);
    for (int t = 0; t < n; t++) {
        const float *w = x.w[t], *b = x.b[t], *k = x.k[t], *r = x.r[t], *a = t + 1 < n ? x.a[t + 1] : NOTHING;
        Lanes V[Q], Y[Q] = {}, next[Q] = {};
        if (from == 0) fetch(t);
        for (int q = 0; q < Q; q++) {
            V[q] = load(x.v[t] + from + q * WIDTH);
            store(u[t] + from + q * WIDTH, U[q]);
        }
        for (int j = 0; j < K; j++) {
            const Lanes W = splat(w[j]), B = splat(b[j]), C = splat(k[j]), R = splat(r[j]), A = splat(a[j]);
#pragma GCC unroll 4
            for (int q = 0; q < Q; q++) {
                Lanes s = load(S + j * K + q * WIDTH);
                s = s * W + (U[q] * B + V[q] * C);
                store(S + j * K + q * WIDTH, s);
                Y[q] += s * R;
                next[q] += s * A;
            }
        }
        for (int q = 0; q < Q; q++) {
            store(y[t] + from + q * WIDTH, Y[q]);
            U[q] = next[q];
        }
    }
}

template <int K, class Fetch> static void advance(const Tile<K>& x, int n, float* S, float (*y)[K], float (*u)[K], Fetch fetch) {
    constexpr int Q = std::min(STRIP, K / WIDTH);
    for (int from = 0; from < K; from += Q * WIDTH) advance_strip<K, Q>(x, n, S + from, y, u, from, fetch);
}

// The states [n + 1][v][k] before and after each of n tokens, of which the first is there.
template <int K> static void replay(const Tile<K>& x, const float (*u)[K], int n, float* states) {
    constexpr int Q = std::min(STRIP, K / WIDTH);
    for (int i = 0; i < K; i++)
        for (int from = i * K; from < (i + 1) * K; from += Q * WIDTH) {
            Lanes S[Q];
            const int at = from - i * K;
            for (int q = 0; q < Q; q++) S[q] = load(states + from + q * WIDTH);
            for (int t = 0; t < n; t++) {
                const Lanes U = splat(u[t][i]), V = splat(x.v[t][i]);
#pragma GCC unroll 4
                for (int q = 0; q < Q; q++) {
                    const int c = at + q * WIDTH;
                    S[q] = S[q] * load(x.w[t] + c) + (U * load(x.b[t] + c) + V * load(x.k[t] + c));
                    store(states + (t + 1) * STATE<K> + from + q * WIDTH, S[q]);
                }
            }
        }
}

// What the pass that makes D_{t-1} reads of the token before: its dy, r, k and b, all nothing at the start of a tile.
struct Before {
    const float *dy, *r, *k, *b;
};

// Rows of partial sums, one vector a row of the state: D k and D b of the token whose D has just been made.
template <int K> struct Partial {
    alignas(64) Lanes dv[K], e[K];
};

// The last token of a tile enters: D += dy r^T. Gives P, and dr of that token.
template <int K> static void enter(Before last, const float* S, float* D, float* P, float* dr, Partial<K>& partial) {
    constexpr int Q = std::min(STRIP, K / WIDTH);
    for (int from = 0; from < K; from += Q * WIDTH) {
        Lanes sum_P[Q] = {}, sum_dr[Q] = {};
        for (int i = 0; i < K; i++) {
            const Lanes dy = splat(last.dy[i]);
            Lanes dv = from ? partial.dv[i] : Lanes{}, e = from ? partial.e[i] : Lanes{};
            for (int q = 0; q < Q; q++) {
                const int c = from + q * WIDTH;
                const Lanes s = load(S + i * K + c), g = load(D + i * K + c) + dy * load(last.r + c);
                store(D + i * K + c, g);
                sum_P[q] += g * s;
                sum_dr[q] += dy * s;
                dv += g * load(last.k + c);
                e += g * load(last.b + c);
            }
            partial.dv[i] = dv;
            partial.e[i] = e;
        }
        for (int q = 0; q < Q; q++) {
            store(P + from + q * WIDTH, sum_P[q]);
            store(dr + from + q * WIDTH, sum_dr[q]);
        }
    }
}

// The pass from D_t to D_{t-1}, over columns `from` on of Q vectors. S is the state before token t.
template <int K, int Q>
static void retreat_strip(const float* w, const float* a, const float* v, const float* u, const float* e, Before before, const float* S,
                          float* D, float* dk, float* db, float* da, float* dr, Partial<K>& partial, int from) {
    Lanes sum_dk[Q] = {}, sum_db[Q] = {}, sum_da[Q] = {}, sum_dr[Q] = {};
    for (int i = 0; i < K; i++) {
        const Lanes V = splat(v[i]), U = splat(u[i]), E = splat(e[i]), dy = splat(before.dy[i]);
        Lanes next_dv = from ? partial.dv[i] : Lanes{}, next_e = from ? partial.e[i] : Lanes{};
#pragma GCC unroll 4
        for (int q = 0; q < Q; q++) {
            const int c = from + q * WIDTH;
            const Lanes s = load(S + i * K + c);
            Lanes g = load(D + i * K + c);
            sum_dk[q] += V * g;
            sum_db[q] += U * g;
            sum_da[q] += E * s;
            sum_dr[q] += dy * s;
            g = g * load(w + c) + (E * load(a + c) + dy * load(before.r + c));
            store(D + i * K + c, g);
            next_dv += g * load(before.k + c);
            next_e += g * load(before.b + c);
        }
        partial.dv[i] = next_dv;
        partial.e[i] = next_e;
    }
    for (int q = 0; q < Q; q++) {
        const int c = from + q * WIDTH;
        store(dk + c, sum_dk[q]);
        store(db + c, sum_db[q]);
        store(da + c, sum_da[q]);
        store(dr + c, sum_dr[q]);
    }
}

// The gradients d of n tokens (d.w is that of log w), and D from behind them to before them.
template <int K, class Fetch>
static void retreat(const Tile<K>& x, const float (*u)[K], const float (*dy)[K], int n, const float* states, float* D, Tile<K>& d, Fetch fetch) {
    constexpr int Q = std::min(STRIP, K / WIDTH);
    alignas(64) float P[K], e[K], unread[K];
    Partial<K> partial;
    auto before = [&](int t) {
        return t ? Before{dy[t - 1], x.r[t - 1], x.k[t - 1], x.b[t - 1]} : Before{NOTHING, NOTHING, NOTHING, NOTHING};
    };
    enter<K>(before(n), states + n * STATE<K>, D, P, d.r[n - 1], partial);
    for (int t = n - 1; t >= 0; t--) {
        for (int i = 0; i < K; i += WIDTH) {
            store(d.v[t] + i, sums(partial.dv + i));
            store(e + i, sums(partial.e + i));
        }
        float* dr = t ? d.r[t - 1] : unread;
        fetch(t);
        for (int from = 0; from < K; from += Q * WIDTH)
            retreat_strip<K, Q>(x.w[t], x.a[t], x.v[t], u[t], e, before(t), states + t * STATE<K>, D, d.k[t], d.b[t], d.a[t], dr, partial, from);
        const float* r = before(t).r;
        for (int c = 0; c < K; c += WIDTH) {
            const Lanes dw = load(P + c) - load(x.b[t] + c) * load(d.b[t] + c) - load(x.k[t] + c) * load(d.k[t] + c);
            store(d.w[t] + c, dw);
            store(P + c, dw + load(x.a[t] + c) * load(d.a[t] + c) + load(r + c) * load(dr + c));
        }
    }
}
