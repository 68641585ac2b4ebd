#include "gradients.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "gradient_parts.h"

namespace recu {
namespace {

constexpr int64_t kItems = 16;  // items for the threads: at least this many, if there are enough rows
constexpr int64_t kItemsPerThread = 8;

}  // namespace

void KernelGradient(const Geometry& g, const uint64_t* x, const float* dy, float* out, const Isa& isa,
                    const Workers& workers) {
  if (g.pixels() == 0) {
    std::fill(out, out + g.taps() * g.channels * g.output_features(), 0.f);
    return;
  }
  const PixelCodes pixels(g);
  const KernelPart part(g, pixels);
  const int64_t in_rows = g.batch * g.in[0] * g.in[1];
  const std::unique_ptr<uint8_t[]> codes(new uint8_t[pixels.size(in_rows)]);
  const int64_t calls = std::min(in_rows, workers.threads > 1 ? kItemsPerThread * workers.threads : 1);
  workers.Each(calls, [&](int64_t call, int) {
    pixels.Fill(x, call * in_rows / calls, (call + 1) * in_rows / calls, isa, codes.get());
  });
  const int64_t rows = g.pixels() / g.out[2], blocks = g.groups * CeilOf(g.features, kLanes);
  const int64_t slices = std::min(rows, CeilOf(kItems, blocks));
  std::vector<float> sums(slices * blocks * part.size());
  const int64_t group_blocks = blocks / g.groups;
  workers.Each(slices * blocks, [&](int64_t i, int) {
    const int64_t slice = i / blocks, block = i % blocks;
    part.Add(codes.get(), dy, block / group_blocks, block % group_blocks, slice * rows / slices,
             (slice + 1) * rows / slices, isa, sums.data() + i * part.size());
  });
  workers.Each(blocks, [&](int64_t block, int) {
    part.Finish(sums.data() + block * part.size(), slices, blocks * part.size(), block / group_blocks,
                block % group_blocks, out);
  });
}

void InputGradient(const Geometry& g, const uint64_t* kernel, const float* alpha, const float* dy, float* out,
                   const Isa& isa, const Workers& workers) {
  const std::vector<uint8_t> codes = KernelCodes(g, kernel, isa);
  const int64_t rows = g.batch * g.in[0] * g.in[1];
  if (rows * g.in[2] == 0) return;
  const int64_t calls = std::min(rows, workers.threads > 1 ? kItemsPerThread * workers.threads : 1);
  workers.Each(calls, [&](int64_t call, int) {
    InputRows writer(g, codes.data(), alpha, isa);
    writer.Begin(dy);
    for (int64_t group = 0; group < g.groups; ++group) {
      for (int64_t row = call * rows / calls; row < (call + 1) * rows / calls; ++row) writer.Row(row, group, out);
    }
  });
}

}  // namespace recu
