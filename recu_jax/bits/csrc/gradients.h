// Gradients of a convolution of signs: real numbers times signs, summed. A multiply-add does 16 of these, as in any
// convolution of floats; what the bits save is moving floats that are +1 or -1.

#pragma once

#include "binary_conv.h"

namespace recu {

// d sum / d kernel: out, (taps, channels, groups * features), of packed x, (batch, *in, groups * words), and dy,
// (pixels, groups * features). The order of the sums depends on the geometry alone, not on threads.
void KernelGradient(const Geometry& geometry, const uint64_t* x, const float* dy, float* out, const Isa& isa,
                    const Workers& workers);

// d sum / d x: out, (batch, *in, groups * channels), of packed kernel, (groups * features, taps, words), and dy times
// alpha, (groups * features), which may be null.
void InputGradient(const Geometry& geometry, const uint64_t* kernel, const float* alpha, const float* dy, float* out,
                   const Isa& isa, const Workers& workers);

}  // namespace recu
