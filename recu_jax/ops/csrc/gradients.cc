#include "gradients.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "gradient_parts.h"

namespace recu {
namespace {

constexpr int64_t kTilePixels = 128;  // with 16 tables of 16 numbers for four pixels, 32 KB, for the first-level cache
constexpr int64_t kItems = 16;        // smallest number of items for the threads
constexpr int64_t kItemsPerThread = 8;

// A byte of 0 or 1 for each of eight bits.
struct SpreadTable {
  uint64_t bytes[256];
  // The compiler fills the table.
  constexpr SpreadTable() : bytes() {
    for (int i = 0; i < 256; ++i) {
      for (int bit = 0; bit < 8; ++bit) bytes[i] |= static_cast<uint64_t>(i >> bit & 1) << 8 * bit;
    }
  }
};
constexpr SpreadTable kSpread;

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
        const int64_t first = std::clamp<int64_t>(from - column, 0, kQuad), last = std::clamp(to - column, first, kQuad);
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

std::vector<uint8_t> KernelCodes(const Geometry& g, const uint64_t* kernel, const Isa& isa) {
  const int64_t parts = g.words() * 4, taps = g.taps(), quads = CeilOf(g.features, kQuad);
  const int64_t blocks = CeilOf(g.channels, kLanes);
  const uint16_t* bits = reinterpret_cast<const uint16_t*>(kernel);
  std::vector<uint8_t> codes(g.groups * blocks * taps * quads * kLanes);
  uint64_t* to = reinterpret_cast<uint64_t*>(codes.data());
  for (int64_t i = 0; i < g.groups * blocks * taps; ++i) {
    const int64_t tap = i % taps, block = i / taps % blocks, group = i / taps / blocks;
    for (int64_t f = 0; f < g.features; f += kQuad, to += 2) {
      uint64_t spread[2 * kQuad] = {};
      for (int64_t j = 0; j < std::min(kQuad, g.features - f); ++j) {
        const uint16_t signs = bits[((group * g.features + f + j) * taps + tap) * parts + block];
        spread[2 * j] = kSpread.bytes[signs & 0xff];
        spread[2 * j + 1] = kSpread.bytes[signs >> 8];
      }
      isa.codes(spread, 2, 2, to);
    }
  }
  return codes;
}

InputRows::InputRows(const Geometry& g, const uint8_t* codes, const float* alpha, const Isa& isa)
    : g_(g), codes_(codes), alpha_(alpha), isa_(isa), quads_(CeilOf(g.features, kQuad)) {
  for (int64_t k = 0; k < g.window[2]; ++k) {
    for (int64_t i = 0; i < g.in[2]; ++i) {
      if (Hits(2, i, k)) {
        low_ = std::max(low_, -Output(2, i, k));
        high_ = std::max(high_, Output(2, i, k) - g.out[2] + 1);
      }
    }
  }
  width_ = low_ + g.out[2] + high_;
  const int64_t slots = g.window[0] * g.window[1];
  tables_ = Tables(slots * quads_ * width_ * isa.table_length);
  held_.assign(slots, -1);
  numbers_.resize(g.out[2] * quads_ * kQuad);
  runs_.resize(g.taps());
}

void InputRows::Begin(const float* dy) {
  dy_ = dy;
  std::fill(held_.begin(), held_.end(), -1);
}

void InputRows::MakeSlot(int64_t slot, int64_t dy_row, int64_t group) {
  const Geometry& g = g_;
  const float* alpha = alpha_ == nullptr ? nullptr : alpha_ + group * g.features;
  const float* from = dy_ + dy_row * g.out[2] * g.output_features() + group * g.features;
  float* to = numbers_.data();
  for (int64_t p = 0; p < g.out[2]; ++p, from += g.output_features(), to += quads_ * kQuad) {
    for (int64_t f = 0; f < g.features; ++f) to[f] = alpha == nullptr ? from[f] : from[f] * alpha[f];
  }
  for (int64_t q = 0; q < quads_; ++q) {
    isa_.tables(numbers_.data() + q * kQuad, 1, g.out[2], quads_ * kQuad,
                TablesOf(slot, low_) + q * width_ * isa_.table_length);
  }
}

void InputRows::Row(int64_t row, int64_t group, float* out) {
  const Geometry& g = g_;
  const int64_t image = row / (g.in[0] * g.in[1]), in0 = row / g.in[1] % g.in[0], in1 = row % g.in[1];
  reads_.clear();
  for (int64_t k0 = 0; k0 < g.window[0]; ++k0) {
    for (int64_t k1 = 0; k1 < g.window[1]; ++k1) {
      if (!Inside(0, in0, k0) || !Inside(1, in1, k1)) continue;
      const int64_t dy_row = (image * g.out[0] + Output(0, in0, k0)) * g.out[1] + Output(1, in1, k1);
      const auto held = std::find(held_.begin(), held_.end(), dy_row * g.groups + group);
      reads_.push_back({dy_row, k0 * g.window[1] + k1, held == held_.end() ? -1 : held - held_.begin()});
    }
  }
  for (Read& read : reads_) {
    if (read.slot >= 0) continue;
    // There are as many slots as reads, so a slot is free.
    const auto is_read = [&](int64_t slot) {
      return std::any_of(reads_.begin(), reads_.end(), [=](const Read& other) { return other.slot == slot; });
    };
    int64_t slot = 0;
    while (is_read(slot)) ++slot;
    read.slot = slot;
    held_[read.slot] = read.dy_row * g.groups + group;
    MakeSlot(read.slot, read.dy_row, group);
  }
  // A phase holds the pixels at distances of `stride`. They read the same taps.
  for (int64_t phase = 0; phase < std::min(g.stride[2], g.in[2]); ++phase) Phase(row, group, phase, out);
}

void InputRows::Phase(int64_t row, int64_t group, int64_t phase, float* out) {
  const Geometry& g = g_;
  const int64_t stride = g.stride[2], pixels = CeilOf(g.in[2] - phase, stride), taps = g.taps();
  const int64_t channel_blocks = CeilOf(g.channels, kLanes), tap_codes = quads_ * kLanes;
  const LookupSteps steps = {kLanes, width_ * isa_.table_length};
  alignas(64) float sums[kLanes * kLanes];
  // All blocks have nearly the same number of pixels.
  const int64_t blocks = CeilOf(pixels, kLanes);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * pixels / blocks, last = (b + 1) * pixels / blocks;
    int count = 0;
    for (const Read& read : reads_) {
      for (int64_t k = 0; k < g.window[2]; ++k) {
        if (!Hits(2, phase, k)) continue;
        runs_[count++] = {codes_ + (group * channel_blocks * taps + read.tap * g.window[2] + k) * tap_codes,
                          TablesOf(read.slot, low_ + Output(2, phase, k) + first), quads_};
      }
    }
    for (int64_t block = 0; block < channel_blocks; ++block) {
      std::fill(sums, sums + kLanes * kLanes, 0.f);
      isa_.lookup(static_cast<int>(last - first), runs_.data(), count, steps, sums);
      for (int i = 0; i < count; ++i) runs_[i].codes += taps * tap_codes;
      const int64_t channel = block * kLanes, channels = std::min(kLanes, g.channels - channel);
      for (int64_t p = first; p < last; ++p) {
        const float* from = sums + (p - first) * kLanes;
        const int64_t pixel = row * g.in[2] + phase + p * stride;
        std::copy(from, from + channels, out + (pixel * g.groups + group) * g.channels + channel);
      }
    }
  }
}

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
