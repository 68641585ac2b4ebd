// Defines the functions that XLA calls and recu_jax/ops/native.py registers. They check the sizes of the arguments and
// call the kernels.

#include <string>

#include "ffi_arguments.h"
#include "gradients.h"

using namespace recu_ffi;

namespace {

ffi::Error ConvSums(ffi::ThreadPool pool, Words x, Words panels, Ints tap_sums, Out<Ints> out,
                    ffi::Span<const int64_t> geometry, std::string_view isa) {
  Call call;
  if (ffi::Error error = ReadCall(x, panels, tap_sums, geometry, isa, &call); error.failure()) return error;
  const recu::Geometry& g = call.geometry;
  if (Count(*out) != g.pixels() * g.output_features()) {
    return Invalid("the result does not fit the geometry");
  }
  const recu::Sums sums = {out->typed_data()};
  recu::Epilogue epilogue;
  epilogue.sums = &sums;
  recu::BinaryConv(g, call.x, call.kernel, epilogue, *call.isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error ConvThresholds(ffi::ThreadPool pool, Words x, Words panels, Ints tap_sums, Ints thresholds, Out<Words> out,
                          ffi::Span<const int64_t> geometry, std::string_view isa) {
  Call call;
  if (ffi::Error error = ReadCall(x, panels, tap_sums, geometry, isa, &call); error.failure()) return error;
  const recu::Geometry& g = call.geometry;
  const int64_t padded = g.blocks() * recu::kBlock;
  if (g.groups != 1 || Count(thresholds) != 2 * padded ||
      Count(*out) != 2 * g.pixels() * g.output_words()) {
    return Invalid("thresholds or result do not fit the geometry");
  }
  const recu::Thresholds t = {thresholds.typed_data(), thresholds.typed_data() + padded,
                              reinterpret_cast<uint64_t*>(out->typed_data())};
  recu::Epilogue epilogue;
  epilogue.thresholds = &t;
  recu::BinaryConv(g, call.x, call.kernel, epilogue, *call.isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error ConvAffine(ffi::ThreadPool pool, Words x, Words panels, Ints tap_sums, Floats affine, Floats shortcut,
                      Out<Floats> out, Out<Words> bits, ffi::Span<const int64_t> geometry, bool clamp,
                      std::string_view isa) {
  Call call;
  if (ffi::Error error = ReadCall(x, panels, tap_sums, geometry, isa, &call); error.failure()) return error;
  const recu::Geometry& g = call.geometry;
  const int64_t count = g.pixels() * g.output_features();
  recu::Affine a;
  if (!ReadAffine(affine, g, &a) || !FitsOrEmpty(shortcut, count) ||
      Count(*out) != count ||
      Count(*bits) != 2 * g.pixels() * g.output_words()) {
    return Invalid("affine, shortcut or results do not fit the geometry");
  }
  a.shortcut = OrNull(shortcut);
  a.clamp = clamp;
  a.out = out->typed_data();
  a.bits = reinterpret_cast<uint64_t*>(bits->typed_data());
  recu::Epilogue epilogue;
  epilogue.affine = &a;
  recu::BinaryConv(g, call.x, call.kernel, epilogue, *call.isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error KernelGradient(ffi::ThreadPool pool, Words x, Floats dy, Out<Floats> out, ffi::Span<const int64_t> geometry,
                          std::string_view isa_name) {
  recu::Geometry g;
  const recu::Isa* isa;
  if (ffi::Error error = ReadGradient(geometry, isa_name, &g, &isa); error.failure()) return error;
  if (Count(x) != 2 * g.input_words() ||
      Count(dy) != g.pixels() * g.output_features() ||
      Count(*out) != g.taps() * g.channels * g.output_features()) {
    return Invalid("x, dy or the kernel's gradient do not fit the geometry");
  }
  recu::KernelGradient(g, reinterpret_cast<const uint64_t*>(x.typed_data()), dy.typed_data(), out->typed_data(), *isa,
                       MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error InputGradient(ffi::ThreadPool pool, Words kernel, Floats alpha, Floats dy, Out<Floats> out,
                         ffi::Span<const int64_t> geometry, std::string_view isa_name) {
  recu::Geometry g;
  const recu::Isa* isa;
  if (ffi::Error error = ReadGradient(geometry, isa_name, &g, &isa); error.failure()) return error;
  if (Count(kernel) != 2 * g.output_features() * g.taps() * g.words() ||
      Count(dy) != g.pixels() * g.output_features() ||
      !FitsOrEmpty(alpha, g.output_features()) ||
      Count(*out) != g.batch * g.in[0] * g.in[1] * g.in[2] * g.groups * g.channels) {
    return Invalid("kernel, alpha, dy or the input's gradient do not fit the geometry");
  }
  recu::InputGradient(g, reinterpret_cast<const uint64_t*>(kernel.typed_data()), OrNull(alpha), dy.typed_data(),
                      out->typed_data(), *isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error Pack(ffi::ThreadPool pool, Floats x, Floats norm, Out<Words> out, int64_t channels,
                std::string_view isa_name) {
  const recu::Isa* isa;
  if (ffi::Error error = ReadIsa(isa_name, &isa); error.failure()) return error;
  const int64_t count = Count(x);
  if (channels < 1 || count % channels != 0 ||
      Count(*out) != count / channels * 2 * ((channels + 63) / 64)) {
    return Invalid("x or its packed form do not fit the number of channels");
  }
  if (!FitsOrEmpty(norm, 3 * channels)) return Invalid("the batch norm does not fit the number of channels");
  recu::PackSigns(x.typed_data(), count / channels, channels, OrNull(norm),
                  reinterpret_cast<uint64_t*>(out->typed_data()), *isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

}  // namespace

// native.py finds these functions by name.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_conv_sums, ConvSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words>()
                                  .Arg<Words>()
                                  .Arg<Ints>()
                                  .Ret<Ints>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_conv_thresholds, ConvThresholds,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words>()
                                  .Arg<Words>()
                                  .Arg<Ints>()
                                  .Arg<Ints>()
                                  .Ret<Words>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_conv_affine, ConvAffine,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words>()
                                  .Arg<Words>()
                                  .Arg<Ints>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Words>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<bool>("clamp")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_kernel_gradient, KernelGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_input_gradient, InputGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_pack, Pack,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Words>()
                                  .Attr<int64_t>("channels")
                                  .Attr<std::string_view>("isa"));

#ifndef RECU_SOURCES
#define RECU_SOURCES ""
#endif

// SHA-256 of the sources of this build. setup.py sets it, and native.py searches for it in the library.
extern "C" const char* recu_sources() { return RECU_SOURCES; }

// Names of the instruction sets that this processor supports, fastest first, separated by spaces.
extern "C" const char* recu_isas() {
  static const std::string names = [] {
    std::string joined;
    for (const char* name : recu::kIsaNames) {
      if (recu::FindIsa(name) != nullptr) joined += (joined.empty() ? "" : " ") + std::string(name);
    }
    return joined;
  }();
  return names.c_str();
}

#pragma GCC visibility pop
