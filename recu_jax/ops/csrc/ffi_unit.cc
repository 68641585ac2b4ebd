// Defines the functions that XLA calls for a training unit. unit.h describes what they compute.

#include <string>

#include "ffi_arguments.h"
#include "unit.h"

using namespace recu_ffi;

namespace {

using Shorts = ffi::Buffer<ffi::S16>;
using Bytes = ffi::Buffer<ffi::U8>;

ffi::Error UnitSums(ffi::ThreadPool pool, Floats x, Words panels, Ints tap_sums, Out<Words> words, Out<Shorts> sums,
                    Out<Floats> moments, ffi::Span<const int64_t> geometry, std::string_view isa) {
  Call call;
  if (ffi::Error error = ReadCall(*words, panels, tap_sums, geometry, isa, &call); error.failure()) return error;
  const recu::Geometry& g = call.geometry;
  if (Count(x) != g.batch * g.in[0] * g.in[1] * g.in[2] * g.groups * g.channels ||
      Count(*sums) != g.pixels() * g.output_features() || Count(*moments) != 2 * g.output_features() ||
      g.taps() * g.channels > 8192) {
    return Invalid("x, sums or moments do not fit the geometry");
  }
  recu::UnitSums(g, x.typed_data(), call.kernel, reinterpret_cast<uint64_t*>(words->typed_data()), sums->typed_data(),
                 moments->typed_data(), *call.isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error UnitEvaluate(ffi::ThreadPool pool, Floats x, Words panels, Ints tap_sums, Floats affine, Floats shortcut,
                        Out<Floats> z, ffi::Span<const int64_t> geometry, bool identity, bool clamp,
                        std::string_view isa) {
  Call call;
  if (ffi::Error error = ReadKernel(panels, tap_sums, geometry, isa, &call); error.failure()) return error;
  const recu::Geometry& g = call.geometry;
  const int64_t in = g.batch * g.in[0] * g.in[1] * g.in[2] * g.channels, out = g.pixels() * g.features;
  recu::Affine a;
  if (!ReadAffine(affine, g, &a) || Count(x) != in || Count(*z) != out || !FitsOrEmpty(shortcut, out) ||
      (identity && in != out)) {
    return Invalid("x, affine, shortcut or result do not fit the geometry");
  }
  a.clamp = clamp;
  a.shortcut = OrNull(shortcut);
  a.out = z->typed_data();
  recu::UnitEvaluate(g, x.typed_data(), call.kernel, a, identity, *call.isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error UnitNormalize(ffi::ThreadPool pool, Shorts sums, Floats coefficients, Floats shortcut, Out<Floats> z,
                         Out<Bytes> inside, bool clamp, std::string_view isa_name) {
  const recu::Isa* isa;
  if (ffi::Error error = ReadIsa(isa_name, &isa); error.failure()) return error;
  const int64_t features = Count(coefficients) / 3;
  if (features < 1 || Count(coefficients) % 3 != 0 || Count(sums) % features != 0 || Count(*z) != Count(sums) ||
      Count(*inside) != recu::BytesOfBits(Count(sums)) || !FitsOrEmpty(shortcut, Count(sums))) {
    return Invalid("coefficients, shortcut or a result does not fit the sums");
  }
  recu::UnitNormalize(Count(sums) / features, features, sums.typed_data(), coefficients.typed_data(),
                      OrNull(shortcut), clamp, z->typed_data(), inside->typed_data(), *isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error UnitGradientSums(ffi::ThreadPool pool, Floats dz, Bytes inside, Shorts sums, Floats mean,
                            Out<Floats> out, std::string_view isa_name) {
  const recu::Isa* isa;
  if (ffi::Error error = ReadIsa(isa_name, &isa); error.failure()) return error;
  const int64_t features = Count(mean);
  if (features < 1 || Count(sums) % features != 0 || Count(dz) != Count(sums) ||
      Count(inside) != recu::BytesOfBits(Count(sums)) || Count(*out) != 2 * features) {
    return Invalid("dz, inside, mean or result do not fit the sums");
  }
  recu::UnitGradientSums(Count(sums) / features, features, dz.typed_data(), inside.typed_data(),
                         sums.typed_data(), mean.typed_data(), out->typed_data(), *isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

ffi::Error UnitGradients(ffi::ThreadPool pool, Floats x, Words words, Words kernel, Floats alpha, Floats dz,
                         Bytes inside, Shorts sums, Floats coefficients, Out<Floats> dx, Out<Floats> dkernel,
                         Out<Floats> dshortcut,
                         ffi::Span<const int64_t> geometry, bool identity, std::string_view isa_name) {
  recu::Geometry g;
  const recu::Isa* isa;
  if (ffi::Error error = ReadGradient(geometry, isa_name, &g, &isa); error.failure()) return error;
  const int64_t in = g.batch * g.in[0] * g.in[1] * g.in[2] * g.groups * g.channels;
  const int64_t out = g.pixels() * g.output_features();
  if (Count(x) != in || Count(words) != 2 * g.input_words() ||
      Count(kernel) != 2 * g.output_features() * g.taps() * g.words() ||
      Count(alpha) != g.output_features() || Count(dz) != out ||
      Count(inside) != recu::BytesOfBits(out) || Count(sums) != out ||
      Count(coefficients) != 4 * g.output_features() || Count(*dx) != in ||
      Count(*dkernel) != g.taps() * g.channels * g.output_features() || !FitsOrEmpty(*dshortcut, out) ||
      (identity && in != out)) {
    return Invalid("an argument of the unit's gradients does not fit the geometry");
  }
  recu::UnitGradientCall call;
  call.x = x.typed_data();
  call.words = reinterpret_cast<const uint64_t*>(words.typed_data());
  call.kernel = reinterpret_cast<const uint64_t*>(kernel.typed_data());
  call.alpha = alpha.typed_data();
  call.dz = dz.typed_data();
  call.inside = inside.typed_data();
  call.sums = sums.typed_data();
  call.coefficients = coefficients.typed_data();
  call.identity = identity;
  call.dx = dx->typed_data();
  call.dkernel = dkernel->typed_data();
  call.dshortcut = Count(*dshortcut) == 0 ? nullptr : dshortcut->typed_data();
  recu::UnitGradients(g, call, *isa, MakeWorkers(pool));
  return ffi::Error::Success();
}

}  // namespace

// native.py finds these functions by name.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_unit_sums, UnitSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Words>()
                                  .Arg<Ints>()
                                  .Ret<Words>()
                                  .Ret<Shorts>()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_unit_evaluate, UnitEvaluate,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Words>()
                                  .Arg<Ints>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<bool>("identity")
                                  .Attr<bool>("clamp")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_unit_normalize, UnitNormalize,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Shorts>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Bytes>()
                                  .Attr<bool>("clamp")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_unit_gradient_sums, UnitGradientSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Bytes>()
                                  .Arg<Shorts>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_unit_gradients, UnitGradients,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Words>()
                                  .Arg<Words>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Bytes>()
                                  .Arg<Shorts>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("geometry")
                                  .Attr<bool>("identity")
                                  .Attr<std::string_view>("isa"));

#pragma GCC visibility pop
