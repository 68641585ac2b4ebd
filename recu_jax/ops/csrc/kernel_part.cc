#include <algorithm>
#include <vector>

#include "gradient_parts.h"

namespace recu {
namespace {

constexpr int64_t kTilePixels = 128;  // with 16 tables of 16 numbers for four pixels, 32 KB, for the first-level cache

// Position of a tap in the window.
struct Tap {
  Tap(const Geometry& g, int64_t tap)
      : k{tap / g.window[2] / g.window[1], tap / g.window[2] % g.window[1], tap % g.window[2]} {}
  int64_t k[3];
};

// Returns the input position that tap k reads for output position `out`, in one dimension.
int64_t Seen(const Geometry& g, int dimension, int64_t out, int64_t k) {
  return out * g.stride[dimension] + k * g.dilation[dimension] - g.low[dimension];
}

}  // namespace

PixelCodes::PixelCodes(const Geometry& g)
    : g_(g), blocks_(g.groups * CeilOf(g.channels, kLanes)), lead_(std::max<int64_t>(0, g.low[2])) {
  const int64_t last_quad = std::max<int64_t>(0, CeilOf(g.out[2], kQuad) - 1);
  const int64_t last = Seen(g, 2, last_quad * kQuad, g.window[2] - 1);
  columns_ = std::max<int64_t>(0, last + lead_) + 1;
}

void PixelCodes::Fill(const uint64_t* x, int64_t first_row, int64_t last_row, const Isa& isa, uint8_t* codes) const {
  const Geometry& g = g_;
  const int64_t parts = g.words() * 4, stride = g.stride[2], per_group = group_blocks();
  // A row of one block, two words a pixel, with zeros outside of the image.
  const int64_t wide = columns_ + (kQuad - 1) * stride, from = std::min(lead_, wide);
  const int64_t pixels = std::min(g.in[2], wide - from), step = g.groups * parts;
  std::vector<uint64_t> spread(2 * wide);
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t block = 0; block < blocks_; ++block) {
      const uint16_t* bits = reinterpret_cast<const uint16_t*>(x) + row * g.in[2] * step +
                             block / per_group * parts + block % per_group;
      for (int64_t p = 0; p < pixels; ++p, bits += step) {
        spread[2 * (from + p)] = kSpread.bytes[*bits & 0xff];
        spread[2 * (from + p) + 1] = kSpread.bytes[*bits >> 8];
      }
      isa.codes(spread.data(), 2 * stride, 2 * columns_,
                reinterpret_cast<uint64_t*>(codes + (row * blocks_ + block) * block_size()));
    }
  }
}

// Output rows whose numbers stay in the first-level cache while all taps and channels use them.
struct KernelPart::Tile {
  int64_t first_row, rows, quads, features;
  int64_t from, to;  // columns of which the tables hold numbers; the others are 0
  const float* numbers;  // (rows, quads * kQuad, kLanes), with zeros outside of the output
  float* tables;         // (rows, quads, kLanes, table length)
};

void KernelPart::Add(const uint8_t* codes, const float* dy, int64_t group, int64_t block, int64_t first_row,
                     int64_t last_row, const Isa& isa, float* sums) const {
  const Geometry& g = g_;
  const int64_t width = g.out[2], all = g.output_features(), quads = CeilOf(width, kQuad);
  const int64_t feature = block * kLanes, features = std::min(kLanes, g.features - feature);
  const int64_t tile_rows = std::max<int64_t>(1, kTilePixels / (quads * kQuad));
  const int64_t row_size = quads * kQuad * kLanes;
  std::vector<float> numbers(tile_rows * row_size);
  Tables tables(tile_rows * quads * kLanes * isa.table_length);
  std::vector<LookupRun> runs(tile_rows);
  for (int64_t row = first_row; row < last_row; row += tile_rows) {
    const int64_t rows = std::min(tile_rows, last_row - row);
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = dy + (row + r) * width * all + group * g.features + feature;
      float* to = numbers.data() + r * row_size;
      for (int64_t p = 0; p < width; ++p) std::copy(from + p * all, from + p * all + features, to + p * kLanes);
    }
    Tile tile = {row, rows, quads, features, -1, -1, numbers.data(), tables.data()};
    for (int64_t k2 = 0; k2 < g.window[2]; ++k2) {
      // Output columns whose tap is inside the image.
      const int64_t at = Seen(g, 2, 0, k2);
      const int64_t from = std::min(at < 0 ? CeilOf(-at, g.stride[2]) : 0, width);
      const int64_t to = at >= g.in[2] ? from : std::clamp(CeilOf(g.in[2] - at, g.stride[2]), from, width);
      if (from == to) continue;
      MakeTables(from, to, isa, &tile);
      for (int64_t outer = 0; outer < g.window[0] * g.window[1]; ++outer) {
        AddTap(codes, group, outer * g.window[2] + k2, tile, isa, runs.data(), sums);
      }
    }
  }
}

void KernelPart::MakeTables(int64_t from, int64_t to, const Isa& isa, Tile* tile) const {
  const auto is_whole = [](int64_t column, int64_t from, int64_t to) { return from <= column && column + kQuad <= to; };
  const int64_t width = g_.out[2];
  // The last quad may reach beyond the output, where the numbers are 0.
  const auto end = [=](int64_t to) { return to == width ? CeilOf(width, kQuad) * kQuad : to; };
  for (int64_t q = 0; q < tile->quads; ++q) {
    const int64_t column = q * kQuad;
    const bool whole = is_whole(column, from, end(to));
    if (whole && tile->to >= 0 && is_whole(column, tile->from, end(tile->to))) continue;
    for (int64_t r = 0; r < tile->rows; ++r) {
      const float* numbers = tile->numbers + (r * tile->quads + q) * kQuad * kLanes;
      float some[kQuad * kLanes] = {};
      if (!whole) {
        const int64_t first = std::clamp<int64_t>(from - column, 0, kQuad);
        const int64_t last = std::clamp(to - column, first, kQuad);
        std::copy(numbers + first * kLanes, numbers + last * kLanes, some + first * kLanes);
      }
      isa.tables(whole ? numbers : some, kLanes, tile->features, 1,
                 tile->tables + (r * tile->quads + q) * kLanes * isa.table_length);
    }
  }
  tile->from = from;
  tile->to = to;
}

void KernelPart::Finish(const float* parts, int64_t slices, int64_t slice_step, int64_t group, int64_t block,
                        float* out) const {
  const int64_t feature = block * kLanes, features = std::min(kLanes, g_.features - feature);
  for (int64_t tap = 0; tap < g_.taps(); ++tap) {
    for (int64_t c = 0; c < g_.channels; ++c) {
      const float* part = parts + (tap * pixels_.group_blocks() + c / kLanes) * kLanes * kLanes + c % kLanes;
      float* to = out + (tap * g_.channels + c) * g_.output_features() + group * g_.features + feature;
      for (int64_t f = 0; f < features; ++f) {
        float sum = 0;
        for (int64_t s = 0; s < slices; ++s) sum += part[s * slice_step + f * kLanes];
        to[f] = sum;
      }
    }
  }
}

void KernelPart::AddTap(const uint8_t* codes, int64_t group, int64_t tap, const Tile& tile, const Isa& isa,
                        LookupRun* runs, float* sums) const {
  const Geometry& g = g_;
  const LookupSteps steps = {kQuad * g.stride[2] * kLanes, kLanes * isa.table_length};
  const int64_t blocks = pixels_.group_blocks();
  const Tap t(g, tap);
  int count = 0;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first_row + r, image = row / (g.out[0] * g.out[1]);
    const int64_t in0 = Seen(g, 0, row / g.out[1] % g.out[0], t.k[0]), in1 = Seen(g, 1, row % g.out[1], t.k[1]);
    if (in0 < 0 || in0 >= g.in[0] || in1 < 0 || in1 >= g.in[1]) continue;
    const int64_t in_row = (image * g.in[0] + in0) * g.in[1] + in1;
    runs[count++] = {pixels_.At(codes, in_row, Seen(g, 2, 0, t.k[2]), group * blocks),
                     tile.tables + r * tile.quads * kLanes * isa.table_length, tile.quads};
  }
  for (int64_t block = 0; block < blocks; ++block) {
    isa.lookup(static_cast<int>(tile.features), runs, count, steps, sums + (tap * blocks + block) * kLanes * kLanes);
    for (int i = 0; i < count; ++i) runs[i].codes += pixels_.block_size();
  }
}

}  // namespace recu
