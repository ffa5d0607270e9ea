// One piece of work, the tokens of one head in one row, from its first tile to its last and back.

#pragma once

#include <type_traits>

#include "recurrence.hpp"

// Where the numbers of a piece are. Tiles and tokens are counted in reading order.
struct Reading {
    int64_t length, stride, first;
    bool reverse;

    int tiles() const { return int((length + TOKENS - 1) / TOKENS); }
    int count(int tile) const { return int(std::min<int64_t>(TOKENS, length - int64_t(tile) * TOKENS)); }
    int64_t token(int tile, int t) const {
        const int64_t i = int64_t(tile) * TOKENS + t;
        return reverse ? length - 1 - i : i;
    }
    int64_t at(int tile, int t) const { return first + token(tile, t) * stride; }
};

// What the caller's arrays [rows, length, heads, size] look like.
struct Shape {
    int64_t rows, length, heads, size;
    int32_t reverse, threads;

    int64_t pieces() const { return rows * heads; }
    Reading reading(int64_t piece) const {
        return {length, heads * size, (piece / heads * length * heads + piece % heads) * size, reverse != 0};
    }
};

// What is kept of a tile for the gradient: the state before it as S[k][v], and its u and y.
template <int K> struct Record {
    float state[K * K], u[TOKENS][K], y[TOKENS][K];
};

// The caller's states [rows, heads, size, size], indexed [v][k], and the records of all tiles. Each may be null.
struct Memory {
    const float* before;
    float* after;
    void* records;
};

// State `piece` of the caller's to K x K, and back.
template <int K> static void read_state(const float* states, int64_t piece, int size, float* to) {
    std::fill(to, to + K * K, 0.0f);
    for (int i = 0; states && i < size; i++) std::copy_n(states + (piece * size + i) * size, size, to + i * K);
}

template <int K> static void write_state(const float* from, int64_t piece, int size, float* states) {
    for (int i = 0; states && i < size; i++) std::copy_n(from + i * K, size, states + (piece * size + i) * size);
}

// A `Source` says what the signals are made of. load(tile, x) lays a tile out, answer(tile, x, y) takes its answer away;
// gradient(tile, x, y, dy) gives the gradient of the answer, spread(tile, x, d) takes those of the signals away, and
// finish() comes last. fetch(tile, t, backward) asks for the memory of a token that is a tile away.
template <int K, class Source> static void forward_row(Source& source, const Shape& shape, int64_t piece, const Memory& memory) {
    const Reading reading = shape.reading(piece);
    Record<K>* records = memory.records ? static_cast<Record<K>*>(memory.records) + piece * reading.tiles() : nullptr;
    alignas(64) float S[K * K], by_rows[K * K];
    Tile<K> x = {};
    Record<K> unkept;
    read_state<K>(memory.before, piece, int(shape.size), by_rows);
    transpose<K>(by_rows, S);
    for (int tile = 0; tile < reading.tiles(); tile++) {
        Record<K>& record = records ? records[tile] : unkept;
        if (records) std::copy_n(S, K * K, record.state);
        source.load(tile, x);
        advance<K>(x, reading.count(tile), S, record.y, record.u, [&](int t) {
            if (tile + 1 < reading.tiles()) source.fetch(tile + 1, t, false);
        });
        source.answer(tile, x, record.y);
    }
    transpose<K>(S, by_rows);
    write_state<K>(by_rows, piece, int(shape.size), memory.after);
}

// Room for the states of a tile, of each thread its own.
template <int K> static float* states_of_a_tile() {
    alignas(64) static thread_local float states[(TOKENS + 1) * STATE<K>];
    return states;
}

// Here `memory.before` is the gradient of the final state and `memory.after` that of the first one.
template <int K, class Source> static void backward_row(Source& source, const Shape& shape, int64_t piece, const Memory& memory) {
    const Reading reading = shape.reading(piece);
    const Record<K>* records = static_cast<const Record<K>*>(memory.records) + piece * reading.tiles();
    float* states = states_of_a_tile<K>();
    alignas(64) float D[K * K], dy[TOKENS][K] = {};
    Tile<K> x = {}, d;
    read_state<K>(memory.before, piece, int(shape.size), D);
    for (int tile = reading.tiles() - 1; tile >= 0; tile--) {
        const Record<K>& record = records[tile];
        const int n = reading.count(tile);
        source.load(tile, x);
        source.gradient(tile, x, record.y, dy);
        transpose<K>(record.state, states);
        replay<K>(x, record.u, n, states);
        retreat<K>(x, record.u, dy, n, states, D, d, [&](int t) {
            if (!tile) return;
            source.fetch(tile - 1, t, true);
            constexpr int share = sizeof(Record<K>) / sizeof(float) / TOKENS;
            for (int c = 0; c < share; c += WIDTH) __builtin_prefetch(records[tile - 1].state + t * share + c);
        });
        source.spread(tile, x, d);
    }
    source.finish();
    write_state<K>(D, piece, int(shape.size), memory.after);
}

// f(i) for every i < count, by as many threads.
template <class F> static void each(int64_t count, int threads, F f) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        NoSubnormals here;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; i++) f(i);
    }
}

// f with the narrowest tile that holds `size` channels.
template <class F> static void for_width(int64_t size, F f) {
    if (size <= 16) f(std::integral_constant<int, 16>());
    else if (size <= 32) f(std::integral_constant<int, 32>());
    else if (size <= 64) f(std::integral_constant<int, 64>());
    else f(std::integral_constant<int, WIDEST>());
}
