// What an emitted kernel is called with, and the few helpers that every one of them uses. runtime.h comes before.

using ds::i64;

struct Job {
  i64 n_tensors, n_sets, threads;
  const i64* numel;              // [tensor]
  const i64* rows;               // [tensor] the first dimension
  const i64* set;                // [tensor] which set of hyperparameters it follows
  void* const* data;             // [tensor, stream | scalar]
  const i64* const* layout;      // [tensor, stream | scalar] null where the elements lie in row-major order
  const double* args;            // [set, argument]
  double* measured;              // [tensor, measure]
  const i64* start;              // [tensor] where this part begins in the whole tensor
  const i64* key;                // [tensor, stream | scalar] of stochastic rounding
};

// Memory for one call, freed at its end.
struct Arena {
  void* blocks[64];
  int count = 0;
  bool failed = false;
  template <class T> T* take(i64 n) {
    void* block = count < 64 ? __builtin_malloc((n ? n : 1) * sizeof(T)) : nullptr;
    failed |= !block;
    if (block) blocks[count++] = block;
    return (T*)block;
  }
  ~Arena() { while (count) __builtin_free(blocks[--count]); }
};

// The tensor that segment k belongs to; `near` is the one that the last segment belonged to.
template <class T> static inline i64 find(const T* tensors, i64 n, i64 k, i64 near) {
  if (tensors[near].first <= k && (near + 1 == n || k < tensors[near + 1].first)) return near;
  i64 low = 0, high = n;
  while (high - low > 1) {
    i64 middle = (low + high) / 2;
    (tensors[middle].first <= k ? low : high) = middle;
  }
  return low;
}

namespace ds {
static inline double mod(double x, double y) { return x - __builtin_floor(x / y) * y; }
}
