#include "unit.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "gradient_parts.h"
#include "gradients.h"

namespace recu {
namespace {

constexpr int64_t kItemsPerThread = 4;
constexpr int64_t kSlices = 16;        // largest number of parts into which a sum over the batch is split
constexpr int64_t kRun = 256;          // coefficients are repeated to at least this length
constexpr int64_t kSliceBytes = 1 << 20;  // largest kernel gradient that each slice of the batch sums up for itself
constexpr int64_t kChunk = 1 << 16;    // floats of a chunk's input or output; both fit into the second-level cache

// Rows of coefficients per channel, repeated for several pixels. Each row thus has one coefficient for each number of a
// run that begins at the first channel of a pixel.
class Repeated {
 public:
  Repeated(const float* rows, int64_t count, int64_t channels)
      : length_(channels * std::max<int64_t>(1, CeilOf(kRun, channels))), numbers_(count * length_) {
    // Lengthens the rows to whole vectors.
    while (length_ % kLanes != 0) length_ += channels;
    numbers_.resize(count * length_);
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t i = 0; i < length_; ++i) numbers_[row * length_ + i] = rows[row * channels + i % channels];
    }
  }
  int64_t length() const { return length_; }
  const float* row(int64_t i) const { return numbers_.data() + i * length_; }

 private:
  int64_t length_;
  std::vector<float> numbers_;
};

// Calls run(from, count) for consecutive runs of `length` numbers in [first, last). The last run may be shorter.
template <typename Run>
void EachRun(int64_t first, int64_t last, int64_t length, const Run& run) {
  for (int64_t from = first; from < last; from += length) run(from, std::min(length, last - from));
}

int64_t Parts(int64_t most, const Workers& workers) {
  return std::max<int64_t>(1, std::min(most, workers.threads > 1 ? kItemsPerThread * workers.threads : 1));
}

}  // namespace

void UnitSums(const Geometry& g, const float* x, const Kernel& kernel, uint64_t* words, int16_t* sums, float* moments,
              const Isa& isa, const Workers& workers) {
  const int64_t rows = g.batch * g.in[0] * g.in[1] * g.in[2] * g.groups, parts = Parts(rows, workers);
  std::atomic<bool> has_nan(false);
  workers.Each(parts, [&](int64_t part, int) {
    // Handles a few pixels at a time, so that they are still in the first-level cache when they are packed.
    for (int64_t row = part * rows / parts, last = (part + 1) * rows / parts; row < last;) {
      const int64_t to = std::min(last, row + std::max<int64_t>(1, 4096 / g.channels));
      if (isa.unit.has_nan(x + row * g.channels, (to - row) * g.channels)) has_nan = true;
      isa.pack(x + row * g.channels, to - row, g.channels, nullptr, words + row * g.words());
      row = to;
    }
  });
  const int64_t padded = g.groups * g.blocks() * kBlock;
  std::vector<int64_t> totals(2 * workers.threads * padded);
  const Moments of_tiles = {sums, totals.data()};
  Epilogue epilogue;
  epilogue.moments = &of_tiles;
  BinaryConv(g, words, kernel, epilogue, isa, workers);
  const double count = static_cast<double>(g.pixels());
  for (int64_t f = 0; f < g.output_features(); ++f) {
    const int64_t at = f / g.features * g.blocks() * kBlock + f % g.features;
    int64_t total = 0, squares = 0;
    for (int w = 0; w < workers.threads; ++w) {
      total += totals[2 * w * padded + at];
      squares += totals[(2 * w + 1) * padded + at];
    }
    const double mean = has_nan ? std::numeric_limits<double>::quiet_NaN() : total / count;
    moments[f] = static_cast<float>(mean);
    moments[g.output_features() + f] = static_cast<float>(squares / count - mean * mean);
  }
}

void UnitEvaluate(const Geometry& g, const float* x, const Kernel& kernel, const Affine& affine, bool identity,
                  const Isa& isa, const Workers& workers) {
  if (g.batch == 0) return;
  const int64_t in_pixels = g.in[0] * g.in[1] * g.in[2], sample_in = in_pixels * g.channels;
  const int64_t out_pixels = g.pixels() / g.batch, sample_out = out_pixels * g.features;
  const int64_t most = std::clamp<int64_t>(kChunk / std::max<int64_t>(1, std::max(sample_in, sample_out)), 1, g.batch);
  const int64_t chunks = std::max((g.batch + most - 1) / most, std::min(g.batch, Parts(g.batch, workers)));
  // While a chunk is computed, its input and its output stay in the second-level cache.
  workers.Each(chunks, [&](int64_t chunk, int) {
    const int64_t first = chunk * g.batch / chunks, last = (chunk + 1) * g.batch / chunks;
    Geometry of_chunk = g;
    of_chunk.batch = last - first;
    const std::unique_ptr<uint64_t[]> words(new uint64_t[of_chunk.input_words()]);
    const std::unique_ptr<uint64_t[]> bits(new uint64_t[of_chunk.pixels() * g.output_words()]);
    const float* from = x + first * sample_in;
    isa.pack(from, of_chunk.batch * in_pixels, g.channels, nullptr, words.get());
    Affine a = affine;
    a.out += first * sample_out;
    a.bits = bits.get();
    if (identity) a.shortcut = x;
    if (a.shortcut != nullptr) a.shortcut += first * sample_out;
    Epilogue epilogue;
    epilogue.affine = &a;
    BinaryConv(of_chunk, words.get(), kernel, epilogue, isa, Workers());
    for (int64_t s = 0; s < of_chunk.batch; ++s) {
      if (!isa.unit.has_nan(from + s * sample_in, sample_in)) continue;
      std::fill_n(a.out + s * sample_out, sample_out, std::numeric_limits<float>::quiet_NaN());
    }
  });
}

void UnitNormalize(int64_t rows, int64_t features, const int16_t* sums, const float* coefficients,
                   const float* shortcut, bool clamp, float* z, uint8_t* inside, const Isa& isa,
                   const Workers& workers) {
  const Repeated repeated(coefficients, 3, features);
  const int64_t parts = Parts(rows, workers), numbers = rows * features;
  std::fill(inside + numbers / 8, inside + BytesOfBits(numbers), uint8_t{0});
  // Each part begins with a whole byte of `inside`, and so does each run, because its length is a multiple of 16.
  const auto first_row = [&](int64_t part) { return part == parts ? rows : part * rows / parts / 8 * 8; };
  workers.Each(parts, [&](int64_t part, int) {
    EachRun(first_row(part) * features, first_row(part + 1) * features, repeated.length(),
            [&](int64_t from, int64_t count) {
              isa.unit.normalize({count, sums + from, repeated.row(0), repeated.row(1), repeated.row(2),
                                  shortcut == nullptr ? nullptr : shortcut + from, clamp, z + from, inside + from / 8});
            });
  });
}

void UnitGradientSums(int64_t rows, int64_t features, const float* dz, const uint8_t* inside, const int16_t* sums,
                      const float* mean, float* out, const Isa& isa, const Workers& workers) {
  const Repeated repeated(mean, 1, features);
  const int64_t length = repeated.length(), slices = std::max<int64_t>(1, std::min(rows, kSlices));
  std::vector<double> parts(slices * 2 * features);
  workers.Each(slices, [&](int64_t slice, int) {
    std::vector<float> lanes(2 * length);
    double* to = parts.data() + slice * 2 * features;
    const int64_t first = slice * rows / slices * features, last = (slice + 1) * rows / slices * features;
    // At most 64 numbers are summed as floats; these partial sums are added as doubles.
    EachRun(first, last, 64 * length, [&](int64_t from, int64_t count) {
      std::fill(lanes.begin(), lanes.end(), 0.f);
      EachRun(from, from + count, length, [&](int64_t at, int64_t n) {
        isa.unit.gradient_sums({n, dz + at, {inside, at}, sums + at, repeated.row(0)}, lanes.data(),
                               lanes.data() + length);
      });
      for (int64_t kind = 0; kind < 2; ++kind) {
        const float* numbers = lanes.data() + kind * length;
        for (int64_t pixel = 0; pixel < length; pixel += features) {
          for (int64_t f = 0; f < features; ++f) to[kind * features + f] += numbers[pixel + f];
        }
      }
    });
  });
  for (int64_t i = 0; i < 2 * features; ++i) {
    double sum = 0;
    for (int64_t slice = 0; slice < slices; ++slice) sum += parts[slice * 2 * features + i];
    out[i] = static_cast<float>(sum);
  }
}

void UnitGradients(const Geometry& g, const UnitGradientCall& call, const Isa& isa, const Workers& workers) {
  const int64_t features = g.output_features(), kernel_size = g.taps() * g.channels * features;
  if (g.batch == 0) {
    std::fill(call.dkernel, call.dkernel + kernel_size, 0.f);
    return;
  }
  const int64_t sample_in = g.in[0] * g.in[1] * g.in[2] * g.groups * g.channels;
  const int64_t sample_out = g.out[0] * g.out[1] * g.out[2] * features, words = g.input_words() / g.batch;
  const Repeated repeated(call.coefficients, 4, features);
  // Computes the gradients of alpha * conv and, if wanted, of the shortcut, for the samples [first, last).
  const auto differentiate_norm = [&](int64_t first, int64_t last, float* d) {
    EachRun(first * sample_out, last * sample_out, repeated.length(), [&](int64_t at, int64_t n) {
      isa.unit.norm({n, call.dz + at, {call.inside, at}, call.sums + at, repeated.row(0)},
                    repeated.row(1), repeated.row(2), repeated.row(3), d + at - first * sample_out,
                    call.dshortcut == nullptr ? nullptr : call.dshortcut + at);
    });
  };
  const auto differentiate_signs = [&](int64_t sample, float* dsigns) {
    const int64_t at = sample * sample_in;
    isa.unit.signs({call.x + at, dsigns, call.identity ? call.dz + at : nullptr, {call.inside, at}, call.dx + at},
                   sample_in);
  };
  const int64_t blocks = g.groups * CeilOf(g.features, kLanes), group_blocks = blocks / g.groups;
  const PixelCodes pixels(g);
  const KernelPart whole(g, pixels);
  const int64_t part_size = whole.size();

  if (blocks * part_size * static_cast<int64_t>(sizeof(float)) > kSliceBytes) {
    // Layers with large kernels have few pixels. Each step then handles the whole batch at once.
    std::unique_ptr<float[]> d(new float[g.batch * sample_out]);
    const int64_t parts = Parts(g.batch, workers);
    workers.Each(parts, [&](int64_t part, int) {
      const int64_t first = part * g.batch / parts;
      differentiate_norm(first, (part + 1) * g.batch / parts, d.get() + first * sample_out);
    });
    KernelGradient(g, call.words, d.get(), call.dkernel, isa, workers);
    InputGradient(g, call.kernel, call.alpha, d.get(), call.dx, isa, workers);
    workers.Each(parts, [&](int64_t part, int) {
      for (int64_t s = part * g.batch / parts; s < (part + 1) * g.batch / parts; ++s) {
        differentiate_signs(s, call.dx + s * sample_in);
      }
    });
    return;
  }

  const std::vector<uint8_t> codes = KernelCodes(g, call.kernel, isa);
  const int64_t slices = std::min(g.batch, kSlices);
  std::unique_ptr<float[]> parts(new float[slices * blocks * part_size]());
  workers.Each(slices, [&](int64_t slice, int) {
    const int64_t first = slice * g.batch / slices, last = (slice + 1) * g.batch / slices;
    const int64_t most = std::clamp<int64_t>(kChunk / std::max(sample_out, sample_in), 1, last - first);
    Geometry of_chunk = g;
    std::unique_ptr<float[]> d(new float[most * sample_out]);
    InputRows writer(of_chunk, codes.data(), call.alpha, isa);
    const KernelPart part(of_chunk, pixels);
    const int64_t in_rows = g.in[0] * g.in[1];
    std::unique_ptr<uint8_t[]> of_pixels(new uint8_t[pixels.size(most * in_rows)]);
    for (int64_t from = first; from < last; from += most) {
      const int64_t to = std::min(last, from + most);
      of_chunk.batch = to - from;
      differentiate_norm(from, to, d.get());
      pixels.Fill(call.words + from * words, 0, of_chunk.batch * in_rows, isa, of_pixels.get());
      const int64_t rows = of_chunk.batch * g.out[0] * g.out[1];
      for (int64_t block = 0; block < blocks; ++block) {
        part.Add(of_pixels.get(), d.get(), block / group_blocks, block % group_blocks, 0, rows, isa,
                 parts.get() + (slice * blocks + block) * part_size);
      }
      float* dx = call.dx + from * sample_in;
      writer.Begin(d.get());
      for (int64_t group = 0; group < g.groups; ++group) {
        for (int64_t row = 0; row < of_chunk.batch * in_rows; ++row) writer.Row(row, group, dx);
      }
      for (int64_t s = from; s < to; ++s) differentiate_signs(s, call.dx + s * sample_in);
    }
  });
  workers.Each(blocks, [&](int64_t block, int) {
    whole.Finish(parts.get() + block * part_size, slices, blocks * part_size, block / group_blocks,
                 block % group_blocks, call.dkernel);
  });
}

}  // namespace recu
