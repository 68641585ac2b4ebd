// Defines the operations of a training unit on runs of numbers. Each isa_*.cc includes this file within its target
// region and unnamed namespace, after tile.h. In addition to the functions for tile.h, it must define:
// - FromShorts(const int16_t*), 16 numbers; Subtract(a, b); Multiply(a, b);
// - Inside(z), the bits -1 < z[i] < 1; IfBits(bits, v), which is v where the bit is 1, and 0 elsewhere;
// - Slope(x) = max(0, 2 - 2|x|); AnyNan(v); FirstOnes(n), which is n ones and then zeros.

inline Vector Some(const float* x, int n) { return n == 16 ? Load(x) : LoadPart(x, n); }
inline void StoreSome(float* to, const Vector& x, int n) {
  if (n == 16) {
    Store(to, x);
  } else {
    StorePart(to, x, n);
  }
}
inline Vector SomeShorts(const int16_t* x, int n) {
  if (n == 16) return FromShorts(x);
  int16_t part[16] = {};
  for (int i = 0; i < n; ++i) part[i] = x[i];
  return FromShorts(part);
}

// Splits `count` numbers into runs of 16; the last may be shorter. Calls step(i, n) for the n numbers from i on.
template <typename Step>
inline void Runs(int64_t count, const Step& step) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) step(i, 16);
  if (i < count) step(i, static_cast<int>(count - i));
}

inline double Total(const Vector& v) {
  float numbers[16];
  Store(numbers, v);
  double sum = 0;
  for (float number : numbers) sum += number;
  return sum;
}

// Sums the results of step(i, n). At most 64 vectors are summed as floats; these partial sums are added as doubles.
template <typename Step>
inline double SumOfRuns(int64_t count, const Step& step) {
  constexpr int64_t kMost = 64 * 16;
  double sum = 0;
  for (int64_t from = 0; from < count; from += kMost) {
    const int64_t to = from + kMost < count ? from + kMost : count;
    Vector first = Broadcast(0.f), second = Broadcast(0.f);
    int64_t i = from;
    for (; i + 32 <= to; i += 32) {
      first = Add(first, step(i, 16));
      second = Add(second, step(i + 16, 16));
    }
    for (; i < to; i += 16) first = Add(first, step(i, to - i < 16 ? static_cast<int>(to - i) : 16));
    sum += Total(Add(first, second));
  }
  return sum;
}

bool HasNan(const float* x, int64_t count) {
  bool found = false;
  Runs(count, [&](int64_t i, int n) { found |= AnyNan(Some(x + i, n)); });
  return found;
}

inline void AddMomentsOf(int features, const MomentTile& t) {
  int32_t totals[16] = {}, squares[16] = {};
  for (int p = 0; p < t.pixels; ++p) {
    const int32_t* sums = t.sums + 16 * p;
    int16_t* out = t.out + p * t.stride;
    for (int i = 0; i < features; ++i) {
      totals[i] += sums[i];
      squares[i] += sums[i] * sums[i];
      out[i] = static_cast<int16_t>(sums[i]);
    }
  }
  for (int i = 0; i < features; ++i) {
    t.totals[i] += totals[i];
    t.squares[i] += squares[i];
  }
}

void AddMoments(const MomentTile& t) {
  if (t.features == 16) {
    AddMomentsOf(16, t);  // inlined, so that the loops have a constant length
  } else {
    AddMomentsOf(t.features, t);
  }
}

void NormalizeRun(const NormalizeTile& t) {
  Runs(t.count, [&](int64_t i, int n) {
    const Vector centred = Subtract(SomeShorts(t.sums + i, n), Some(t.mean + i, n));
    Vector z = MultiplyAdd(centred, Some(t.factor + i, n), Some(t.bias + i, n));
    if (t.shortcut != nullptr) z = Add(z, Some(t.shortcut + i, n));
    StoreSome(t.z + i, t.clamp ? Clamp(z) : z, n);
    const uint16_t inside = (t.clamp ? Inside(z) : ~0) & FirstBits(n);
    std::memcpy(t.inside + i / 8, &inside, n > 8 ? 2 : 1);
  });
}

// Returns the gradient with respect to the input of the clamp.
inline Vector Unclamped(const float* dz, const Bits& inside, int64_t i, int n) {
  const int64_t at = inside.first + i;
  uint32_t word;
  std::memcpy(&word, inside.bytes + at / 8, sizeof(word));
  return IfBits(static_cast<uint16_t>(word >> at % 8), Some(dz + i, n));
}

void AddGradientSums(const GradientTile& t, float* totals, float* products) {
  Runs(t.count, [&](int64_t i, int n) {
    const Vector g = Unclamped(t.dz, t.inside, i, n);
    const Vector centred = Subtract(SomeShorts(t.sums + i, n), Some(t.mean + i, n));
    StoreSome(totals + i, Add(Some(totals + i, n), g), n);
    StoreSome(products + i, MultiplyAdd(g, centred, Some(products + i, n)), n);
  });
}

void DifferentiateNorm(const GradientTile& t, const float* of_gradient, const float* of_sum, const float* constant,
                       float* out, float* unclamped) {
  Runs(t.count, [&](int64_t i, int n) {
    const Vector g = Unclamped(t.dz, t.inside, i, n);
    const Vector centred = Subtract(SomeShorts(t.sums + i, n), Some(t.mean + i, n));
    const Vector rest = MultiplyAdd(centred, Some(of_sum + i, n), Some(constant + i, n));
    StoreSome(out + i, MultiplyAdd(g, Some(of_gradient + i, n), rest), n);
    if (unclamped != nullptr) StoreSome(unclamped + i, g, n);
  });
}

void DifferentiateSigns(const SignTile& t, int64_t count) {
  const double mean = SumOfRuns(count, [&](int64_t i, int n) { return Some(t.x + i, n); }) / static_cast<double>(count);
  const Vector center = Broadcast(static_cast<float>(mean));
  const double squares = SumOfRuns(count, [&](int64_t i, int n) {
    const Vector centred = Subtract(Some(t.x + i, n), center);
    return n == 16 ? Multiply(centred, centred) : Multiply(centred, Multiply(centred, FirstOnes(n)));
  });
  const double others = count > 1 ? static_cast<double>(count - 1) : 1.0;
  const double inverse = 1 / std::sqrt(squares / others + 1e-5);
  const Vector scale = Broadcast(static_cast<float>(inverse));
  const double product = SumOfRuns(count, [&](int64_t i, int n) {
    const Vector x = Some(t.x + i, n), h = Multiply(Some(t.dsigns + i, n), Slope(Multiply(x, scale)));
    StoreSome(t.dsigns + i, h, n);
    return Multiply(h, x);
  });
  const Vector pull = Broadcast(static_cast<float>(-product * inverse * inverse * inverse / others));
  Runs(count, [&](int64_t i, int n) {
    Vector dx = Multiply(Some(t.dsigns + i, n), scale);
    dx = MultiplyAdd(Subtract(Some(t.x + i, n), center), pull, dx);
    if (t.dz != nullptr) dx = Add(dx, Unclamped(t.dz, t.inside, i, n));
    StoreSome(t.dx + i, dx, n);
  });
}
