// Defines the operations on latent weights. Each isa_*.cc includes this file within its target region and unnamed
// namespace, after unit_tile.h. In addition to the functions for unit_tile.h, it must define Magnitude(v) = |v|.

// Computes `kSums` sums over the rows for each channel. step(row, i, n, sums) adds the terms of one row for the n
// channels from i on.
template <int kSums, typename Step>
inline void SumRows(const WeightTile& t, float* totals, const Step& step) {
  // Sums of 32 rows have small rounding errors. All channels are read while these rows are in the nearest cache.
  constexpr int64_t kRows = 32;
  for (int i = 0; i < kSums * kWeightChannels; ++i) totals[i] = 0;
  for (int64_t first = 0; first < t.rows; first += kRows) {
    const int64_t last = first + kRows < t.rows ? first + kRows : t.rows;
    Runs(t.channels, [&](int64_t i, int n) {
      Vector sums[kSums];
      for (Vector& sum : sums) sum = Broadcast(0.f);
      for (int64_t row = first; row < last; ++row) step(row, i, n, sums);
      for (int s = 0; s < kSums; ++s) {
        float* total = totals + s * kWeightChannels + i;
        Store(total, Add(Load(total), sums[s]));
      }
    });
  }
}

void StandardizedSigns(const WeightTile& t, float spread, float epsilon, float* mean, float* scale, float* magnitudes,
                       float* signs) {
  float sums[2 * kWeightChannels];
  SumRows<1>(t, sums, [&](int64_t row, int64_t i, int n, Vector* s) {
    s[0] = Add(s[0], Some(t.weights + row * t.stride + i, n));
  });
  float means[kWeightChannels];
  for (int i = 0; i < kWeightChannels; ++i) means[i] = sums[i] / static_cast<float>(t.rows);
  SumRows<2>(t, sums, [&](int64_t row, int64_t i, int n, Vector* s) {
    const Vector centred = Subtract(Some(t.weights + row * t.stride + i, n), Load(means + i));
    s[0] = MultiplyAdd(centred, centred, s[0]);
    s[1] = Add(s[1], Magnitude(centred));
  });
  for (int i = 0; i < t.channels; ++i) {
    mean[i] = means[i];
    scale[i] = spread / std::sqrt(sums[i] / static_cast<float>(t.rows - 1) + epsilon);
    magnitudes[i] = sums[kWeightChannels + i] * scale[i];
  }
  const Vector zero = Broadcast(0.f), two = Broadcast(2.f), minus_one = Broadcast(-1.f);
  for (int64_t row = 0; row < t.rows; ++row) {
    Runs(t.channels, [&](int64_t i, int n) {
      const Vector centred = Subtract(Some(t.weights + row * t.stride + i, n), Load(means + i));
      const Vector sign = Add(IfBits(NotNegative(centred), two), minus_one);
      StoreSome(signs + row * t.stride + i, MultiplyAdd(centred, zero, sign), n);  // the product with 0 makes signs NaN
    });
  }
}

void DifferentiateStandardized(const WeightTile& t, const float* gradient, float spread, float bound,
                               const float* mean, const float* scale, float* out) {
  const Vector limit = Broadcast(bound);
  // The centred weights, and the gradient where the clamp passes it.
  const auto centred_at = [&](int64_t row, int64_t i, int n) {
    return Subtract(Some(t.weights + row * t.stride + i, n), Some(mean + i, n));
  };
  const auto passed = [&](const Vector& centred, int64_t row, int64_t i, int n) {
    const Vector left = Subtract(limit, Multiply(Magnitude(centred), Some(scale + i, n)));
    return IfBits(NotNegative(left), Some(gradient + row * t.stride + i, n));
  };
  float sums[2 * kWeightChannels];
  SumRows<2>(t, sums, [&](int64_t row, int64_t i, int n, Vector* s) {
    const Vector centred = centred_at(row, i, n), g = passed(centred, row, i, n);
    s[0] = Add(s[0], g);
    s[1] = MultiplyAdd(g, centred, s[1]);
  });
  float pull[kWeightChannels] = {}, minus_mean[kWeightChannels] = {};
  for (int i = 0; i < t.channels; ++i) {
    const float inverse = scale[i] / spread;
    minus_mean[i] = -sums[i] / static_cast<float>(t.rows);
    pull[i] = -sums[kWeightChannels + i] * inverse * inverse / static_cast<float>(t.rows - 1);
  }
  for (int64_t row = 0; row < t.rows; ++row) {
    Runs(t.channels, [&](int64_t i, int n) {
      const Vector centred = centred_at(row, i, n);
      const Vector g = Add(passed(centred, row, i, n), Load(minus_mean + i));
      const Vector dw = Multiply(MultiplyAdd(centred, Load(pull + i), g), Some(scale + i, n));
      StoreSome(out + row * t.stride + i, dw, n);
    });
  }
}
