// Operations on the sums of a tile. Each isa_*.cc includes this file within its target region and unnamed namespace, so
// that each instruction set has its own copy. It must first define the type `Vector` of 16 floats (with plain loops
// over 16 floats GCC needed 36 cycles, with this type 8), and these functions:
// - Load(const float*), LoadPart(const float*, n), FromInts(const int32_t*), Store(float*, v), StorePart(float*, v, n);
// - MultiplyAdd(a, b, c) = a b + c and MultiplySubtract(a, b, c) = a b - c, both rounded once; Add(a, b);
// - Broadcast(float); Clamp(v), to [-1, 1]; NotNegative(v), the bits v[i] >= 0;
// - SubtractInts(int32_t* from, const int32_t* x), which subtracts 16 numbers x from 16 numbers;
// - NotBelow(const int32_t* a, const int32_t* direction, const int32_t* b), the bits a[i] * direction[i] >= b[i].

inline uint16_t FirstBits(int features) { return static_cast<uint16_t>((1u << features) - 1); }

inline void CorrectBorder(const BorderTile& t) {
  for (int p = 0; p < t.pixels; ++p) {
    for (int64_t i = 0; i < t.counts[p]; ++i) {
      SubtractInts(t.sums + 16 * p, t.tap_sums + t.outside[p * t.taps + i] * 16);
    }
  }
}

inline void FinishAffine(const AffineTile& t) {
  const Vector alpha = Load(t.alpha), mean = Load(t.mean), factor = Load(t.factor), bias = Load(t.bias);
  const bool whole = t.features == 16;
  for (int p = 0; p < t.pixels; ++p) {
    // The order and the roundings are those of XLA's code for `(alpha * sum - mean) * factor + bias` on processors with
    // FMA. The signs thus equal those of the Flax model even if the result is a rounding error away from 0.
    Vector y = MultiplyAdd(MultiplySubtract(FromInts(t.sums + 16 * p), alpha, mean), factor, bias);
    if (t.shortcut != nullptr) {
      const float* shortcut = t.shortcut + p * t.stride;
      y = Add(y, whole ? Load(shortcut) : LoadPart(shortcut, t.features));
    }
    if (t.clamp) y = Clamp(y);
    float* out = t.out + p * t.stride;
    if (whole) {
      Store(out, y);
    } else {
      StorePart(out, y, t.features);
    }
    t.bits[p * t.bits_stride] = NotNegative(y) & FirstBits(t.features);
  }
}

inline void FinishThresholds(const ThresholdTile& t) {
  for (int p = 0; p < t.pixels; ++p) {
    t.bits[p * t.bits_stride] = NotBelow(t.sums + 16 * p, t.direction, t.threshold) & FirstBits(t.features);
  }
}

inline void PackRow(const float* x, int64_t channels, const float* norm, uint64_t* words) {
  const auto load = [channels](const float* from, int64_t part) {
    return part + 16 <= channels ? Load(from + part) : LoadPart(from + part, static_cast<int>(channels - part));
  };
  for (int64_t from = 0; from < channels; from += 64) {
    uint64_t word = 0;
    for (int64_t part = from; part < from + 64 && part < channels; part += 16) {
      Vector v = load(x, part);
      if (norm != nullptr) {
        // The roundings are those of XLA's code for `(x - mean) * factor + bias` on processors with FMA. The product
        // with 1 is exact.
        const Vector centred = MultiplySubtract(v, Broadcast(1.f), load(norm, part));
        v = MultiplyAdd(centred, load(norm + channels, part), load(norm + 2 * channels, part));
      }
      const int features = part + 16 <= channels ? 16 : static_cast<int>(channels - part);
      word |= static_cast<uint64_t>(NotNegative(v) & FirstBits(features)) << (part - from);
    }
    words[from / 64] = word;
  }
}

inline void PackRows(const float* x, int64_t rows, int64_t channels, const float* norm, uint64_t* words) {
  if (channels == 16 && norm == nullptr) {
    for (int64_t row = 0; row < rows; ++row) words[row] = NotNegative(Load(x + 16 * row));
    return;
  }
  const int64_t row_words = (channels + 63) / 64;
  for (int64_t row = 0; row < rows; ++row) PackRow(x + row * channels, channels, norm, words + row * row_words);
}
