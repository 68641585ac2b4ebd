// Checks and converts the arguments that XLA passes.

#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "binary_conv.h"
#include "isa.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace recu_ffi {

using Words = ffi::Buffer<ffi::U32>;
using Ints = ffi::Buffer<ffi::S32>;
using Floats = ffi::Buffer<ffi::F32>;
template <typename Buffer>
using Out = ffi::Result<Buffer>;

template <typename Buffer>
int64_t Count(const Buffer& buffer) {
  return static_cast<int64_t>(buffer.element_count());
}

// Returns workers that run on XLA's threads.
inline recu::Workers MakeWorkers(ffi::ThreadPool pool) {
  recu::Workers workers;
  // XLA returns 0 if it has no pool.
  workers.threads = std::max(1, static_cast<int>(pool.num_threads()));
  workers.start = [pool](std::function<void()> task) mutable { pool.Schedule(std::move(task)); };
  return workers;
}

inline ffi::Error Invalid(const std::string& what) { return ffi::Error::InvalidArgument("recu_jax: " + what); }

// An optional argument that is not given is an empty array. The kernels get null instead.
inline bool FitsOrEmpty(const Floats& argument, int64_t count) {
  const int64_t given = Count(argument);
  return given == 0 || given == count;
}
inline const float* OrNull(const Floats& argument) {
  return argument.element_count() == 0 ? nullptr : argument.typed_data();
}

// Reads the 22 numbers of recu_jax.ops.geometry.Geometry.numbers.
inline bool ReadGeometry(ffi::Span<const int64_t> numbers, recu::Geometry* g) {
  if (numbers.size() != 22) return false;
  const int64_t* n = numbers.begin();
  g->batch = *n++;
  for (int64_t* triple : {g->in, g->out, g->window, g->stride, g->dilation, g->low}) {
    for (int i = 0; i < 3; ++i) triple[i] = *n++;
  }
  g->groups = n[0];
  g->channels = n[1];
  g->features = n[2];
  for (const int64_t* triple : {g->in, g->out}) {
    for (int i = 0; i < 3; ++i) {
      if (triple[i] < 0) return false;
    }
  }
  for (const int64_t* triple : {g->window, g->stride, g->dilation}) {
    for (int i = 0; i < 3; ++i) {
      if (triple[i] < 1) return false;
    }
  }
  return g->batch >= 0 && g->groups >= 1 && g->channels >= 1 && g->features >= 1;
}

// Finds the instruction set called `name`.
inline ffi::Error ReadIsa(std::string_view name, const recu::Isa** isa) {
  *isa = recu::FindIsa(std::string(name).c_str());
  if (*isa == nullptr) return Invalid("no instruction set of this name here: " + std::string(name));
  return ffi::Error::Success();
}

// Reads the arguments that all gradients of a convolution share.
inline ffi::Error ReadGradient(ffi::Span<const int64_t> geometry, std::string_view isa_name, recu::Geometry* g,
                               const recu::Isa** isa) {
  if (!ReadGeometry(geometry, g)) return Invalid("the geometry is not one of a convolution");
  return ReadIsa(isa_name, isa);
}

// Arguments that the convolutions share.
struct Call {
  recu::Geometry geometry;
  const uint64_t* x;
  recu::Kernel kernel;
  const recu::Isa* isa;
};

// Reads all members of a Call except x.
inline ffi::Error ReadKernel(Words panels, Ints tap_sums, ffi::Span<const int64_t> geometry, std::string_view isa,
                             Call* call) {
  recu::Geometry& g = call->geometry;
  if (!ReadGeometry(geometry, &g)) return Invalid("the geometry is not one of a convolution");
  if (Count(panels) != 2 * g.groups * g.blocks() * g.depth() * recu::kBlock ||
      Count(tap_sums) != g.groups * g.blocks() * g.taps() * recu::kBlock) {
    return Invalid("the kernel does not fit the geometry");
  }
  if (ffi::Error error = ReadIsa(isa, &call->isa); error.failure()) return error;
  call->kernel = {reinterpret_cast<const uint64_t*>(panels.typed_data()), tap_sums.typed_data()};
  return ffi::Error::Success();
}

inline ffi::Error ReadCall(Words x, Words panels, Ints tap_sums, ffi::Span<const int64_t> geometry,
                           std::string_view isa, Call* call) {
  if (ffi::Error error = ReadKernel(panels, tap_sums, geometry, isa, call); error.failure()) return error;
  if (Count(x) != 2 * call->geometry.input_words()) {
    return Invalid("x does not fit the geometry");
  }
  call->x = reinterpret_cast<const uint64_t*>(x.typed_data());
  return ffi::Error::Success();
}

// Reads alpha, mean, factor and bias of `recu::Affine`, each padded to whole blocks. Returns false if they do not fit.
inline bool ReadAffine(const Floats& rows, const recu::Geometry& g, recu::Affine* affine) {
  const int64_t padded = g.blocks() * recu::kBlock;
  if (g.groups != 1 || Count(rows) != 4 * padded) return false;
  const float* first = rows.typed_data();
  affine->alpha = first;
  affine->mean = first + padded;
  affine->factor = first + 2 * padded;
  affine->bias = first + 3 * padded;
  return true;
}

}  // namespace recu_ffi
