#include <algorithm>
#include <vector>

#include "gradient_parts.h"

namespace recu {

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
  // A phase holds every stride-th pixel of the row. These pixels read the same taps.
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

}  // namespace recu
