// The compiled CPU kernels: WKV-7 here, the whole time mix and the passes around it in the headers at the end.
//
// recurrence.hpp has the mathematics, row.hpp takes it from one end of a text to the other, lanes.hpp is what both compute
// with. Everything is called with plain pointers to contiguous arrays and allocates nothing that outlives the call.

#include "row.hpp"

// The six signals as they are, float [rows, length, heads, size].
struct Signals {
    const float *r, *log_w, *k, *v, *a, *b, *dy;
    float *y, *dr, *d_log_w, *dk, *dv, *da, *db;
};

struct SignalSource : Signals {
    const Reading reading;
    const int size;

    SignalSource(const Signals& arrays, const Shape& shape, int64_t piece)
        : Signals(arrays), reading(shape.reading(piece)), size(int(shape.size)) {}

    template <int K> void load(int tile, Tile<K>& x) const {
        read<K>(tile, r, x.r);
        read<K>(tile, log_w, x.w);
        read<K>(tile, k, x.k);
        read<K>(tile, v, x.v);
        read<K>(tile, a, x.a);
        read<K>(tile, b, x.b);
        for (int t = 0; t < reading.count(tile); t++)
            for (int c = 0; c < K; c += WIDTH) store(x.w[t] + c, exp(::load(x.w[t] + c)));
    }

    template <int K> void answer(int tile, const Tile<K>&, const float (*from)[K]) const { write<K>(tile, from, y); }

    template <int K> void gradient(int tile, const Tile<K>&, const float (*)[K], float (*to)[K]) const { read<K>(tile, dy, to); }

    template <int K> void spread(int tile, const Tile<K>&, const Tile<K>& d) const {
        write<K>(tile, d.r, dr);
        write<K>(tile, d.w, d_log_w);
        write<K>(tile, d.k, dk);
        write<K>(tile, d.v, dv);
        write<K>(tile, d.a, da);
        write<K>(tile, d.b, db);
    }

    void finish() const {}

    void fetch(int tile, int t, bool backward) const {
        if (t >= reading.count(tile)) return;
        for (int64_t c = reading.at(tile, t), end = c + size; c < end; c += WIDTH) {
            for (const float* from : {r, log_w, k, v, a, b}) __builtin_prefetch(from + c);
            if (backward) __builtin_prefetch(dy + c);
        }
    }

  private:
    template <int K> void read(int tile, const float* from, float (*to)[K]) const {
        for (int t = 0; t < reading.count(tile); t++)
            for (int c = 0; c < size; c += WIDTH) store(to[t] + c, ::load(from + reading.at(tile, t) + c, size - c));
    }

    template <int K> void write(int tile, const float (*from)[K], float* to) const {
        for (int t = 0; t < reading.count(tile); t++)
            for (int c = 0; c < size; c += WIDTH) store(to + reading.at(tile, t) + c, ::load(from[t] + c), size - c);
    }
};

extern "C" {

int64_t lgdlm_widest() { return WIDEST; }

// Bytes of the records of all pieces.
int64_t lgdlm_record_bytes(const Shape* shape) {
    int64_t bytes = 0;
    for_width(shape->size, [&](auto width) { bytes = sizeof(Record<decltype(width)::value>) * shape->reading(0).tiles() * shape->pieces(); });
    return bytes;
}

void lgdlm_wkv_forward(const Shape* shape, const Signals* arrays, const Memory* memory) {
    for_width(shape->size, [&](auto width) {
        each(shape->pieces(), shape->threads, [&](int64_t piece) {
            SignalSource source(*arrays, *shape, piece);
            forward_row<decltype(width)::value>(source, *shape, piece, *memory);
        });
    });
}

void lgdlm_wkv_backward(const Shape* shape, const Signals* arrays, const Memory* memory) {
    for_width(shape->size, [&](auto width) {
        each(shape->pieces(), shape->threads, [&](int64_t piece) {
            SignalSource source(*arrays, *shape, piece);
            backward_row<decltype(width)::value>(source, *shape, piece, *memory);
        });
    });
}
}

#include "shift.hpp"
#include "time_mix.hpp"
