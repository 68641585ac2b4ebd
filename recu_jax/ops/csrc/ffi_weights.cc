// Defines the functions on latent weights that XLA calls. ffi.cc has those of convolutions. ops/latent_weights.py
// describes what they compute.

#include "ffi_arguments.h"

using namespace recu_ffi;

namespace {

// Calls run(first, tile) for each tile of channels, where `first` is the tile's first channel.
template <typename Run>
void EachTile(const recu::Workers& workers, const Floats& weights, int64_t channels, const Run& run) {
  const int64_t rows = Count(weights) / channels;
  const int64_t tiles = (channels + recu::kWeightChannels - 1) / recu::kWeightChannels;
  workers.Each(tiles, [&](int64_t tile, int) {
    const int64_t first = tile * recu::kWeightChannels;
    const int count = static_cast<int>(std::min<int64_t>(recu::kWeightChannels, channels - first));
    run(first, recu::WeightTile{weights.typed_data() + first, rows, channels, count});
  });
}

ffi::Error Signs(ffi::ThreadPool pool, Floats weights, Out<Floats> signs, Out<Floats> statistics, float spread,
                 float epsilon, std::string_view isa_name) {
  const recu::Isa* isa;
  if (ffi::Error error = ReadIsa(isa_name, &isa); error.failure()) return error;
  const int64_t count = Count(weights);
  const int64_t channels = Count(*statistics) / 3;
  if (channels < 1 || count % channels != 0 || count < 2 * channels ||
      Count(*statistics) != 3 * channels ||
      Count(*signs) != count) {
    return Invalid("signs or statistics do not fit the weights");
  }
  float* of_channels = statistics->typed_data();
  EachTile(MakeWorkers(pool), weights, channels, [&](int64_t first, const recu::WeightTile& tile) {
    isa->weights.signs(tile, spread, epsilon, of_channels + first, of_channels + channels + first,
                       of_channels + 2 * channels + first, signs->typed_data() + first);
  });
  return ffi::Error::Success();
}

ffi::Error Gradient(ffi::ThreadPool pool, Floats gradient, Floats weights, Floats statistics, Floats bound,
                    Out<Floats> out, float spread, std::string_view isa_name) {
  const recu::Isa* isa;
  if (ffi::Error error = ReadIsa(isa_name, &isa); error.failure()) return error;
  const int64_t count = Count(weights);
  const int64_t channels = Count(statistics) / 3;
  if (channels < 1 || count % channels != 0 || count < 2 * channels ||
      Count(statistics) != 3 * channels || Count(bound) != 1 ||
      Count(gradient) != count || Count(*out) != count) {
    return Invalid("an argument of the weights' gradient does not fit the weights");
  }
  const float* of_channels = statistics.typed_data();
  EachTile(MakeWorkers(pool), weights, channels, [&](int64_t first, const recu::WeightTile& tile) {
    isa->weights.gradient(tile, gradient.typed_data() + first, spread, *bound.typed_data(), of_channels + first,
                          of_channels + channels + first, out->typed_data() + first);
  });
  return ffi::Error::Success();
}

}  // namespace

// native.py finds these functions by name.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_weight_signs, Signs,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Attr<float>("spread")
                                  .Attr<float>("epsilon")
                                  .Attr<std::string_view>("isa"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(recu_weight_gradient, Gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<float>("spread")
                                  .Attr<std::string_view>("isa"));

#pragma GCC visibility pop
