// Sums of outer products of signs and numbers. Each isa_*.cc includes this file within its target region and unnamed
// namespace, after tile.h. In addition to the functions for tile.h, it must define:
// - Signs(uint16_t), a vector of +1 where the bit is 1 and -1 elsewhere;
// - kOuterRows[v], the number of rows of v vectors whose sums fit into the registers. kOuterRows[2] is 0 for
//   instruction sets on which it is faster to compute the sums of one vector after the other.

// Adds the outer products of all runs to the sums of P rows of V vectors of 16 lanes.
template <int P, int V>
inline void OuterOf(const OuterRun* runs, int count, const OuterSteps& steps, const int64_t first, const int64_t vector,
                    float* sums, const int64_t row) {
  Vector s[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) s[p][v] = Load(sums + row * p + 16 * v);
  }
  for (int r = 0; r < count; ++r) {
    const uint16_t* __restrict bits = runs[r].bits + vector * steps.bits_vector;
    const float* __restrict numbers = runs[r].numbers + first * steps.number_row;
    for (int64_t k = 0; k < runs[r].count; ++k, bits += steps.bits, numbers += steps.number) {
      Vector sign[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sign[v] = Signs(bits[v * steps.bits_vector]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Vector number = Broadcast(numbers[p * steps.number_row]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) s[p][v] = MultiplyAdd(sign[v], number, s[p][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) Store(sums + row * p + 16 * v, s[p][v]);
  }
}

template <int V, int P>
inline void OuterUpTo(int rows, const OuterRun* runs, int count, const OuterSteps& steps, int64_t first, int64_t vector,
                      float* sums, int64_t row) {
  if constexpr (P > 0) {
    if (rows == P) return OuterOf<P, V>(runs, count, steps, first, vector, sums, row);
    OuterUpTo<V, P - 1>(rows, runs, count, steps, first, vector, sums, row);
  }
}

// Splits the rows into blocks of nearly the same size that fit into the registers. `row` is the distance between two
// rows of the sums, in floats.
template <int V>
inline void OuterRows(int rows, const OuterRun* runs, int count, const OuterSteps& steps, int64_t vector, float* sums,
                      int64_t row) {
  if constexpr (kOuterRows[V] == 0) {
    for (int v = 0; v < V; ++v) OuterRows<1>(rows, runs, count, steps, vector + v, sums + 16 * v, row);
  } else {
    const int blocks = (rows + kOuterRows[V] - 1) / kOuterRows[V];
    for (int b = 0; b < blocks; ++b) {
      const int first = b * rows / blocks, last = (b + 1) * rows / blocks;
      OuterUpTo<V, kOuterRows[V]>(last - first, runs, count, steps, first, vector, sums + row * first, row);
    }
  }
}

void Outer(int rows, int vectors, const OuterRun* runs, int count, const OuterSteps& steps, float* sums) {
  if (vectors == 2) return OuterRows<2>(rows, runs, count, steps, 0, sums, 32);
  OuterRows<1>(rows, runs, count, steps, 0, sums, 16);
}
