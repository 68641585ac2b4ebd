// Computes the gradients of a convolution of signs, which are sums of real numbers times signs. Sums of four numbers
// are looked up (lookup.h). Signs are stored as bits, which saves memory traffic.

#pragma once

#include "binary_conv.h"

namespace recu {

// Computes d sum / d kernel. out is (taps, channels, groups * features), packed x is (batch, *in, groups * words), dy
// is (pixels, groups * features). The order of the sums depends only on the geometry, not on the threads.
void KernelGradient(const Geometry& geometry, const uint64_t* x, const float* dy, float* out, const Isa& isa,
                    const Workers& workers);

// Computes d (alpha * sum) / d x. out is (batch, *in, groups * channels), packed kernel is (groups * features, taps,
// words), alpha is (groups * features) or null.
void InputGradient(const Geometry& geometry, const uint64_t* kernel, const float* alpha, const float* dy, float* out,
                   const Isa& isa, const Workers& workers);

}  // namespace recu
