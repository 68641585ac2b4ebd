// Compares the gradients of every instruction set with sums over +-1 in double, on random shapes. It is built and
// called as binary_conv_test.cc is.

#include "gradients.h"

#include <cmath>

#include "isa.h"
#include "random_shapes.h"

using namespace recu;

namespace {

void Check(const Geometry& g) {
  const int64_t in_pixels = g.batch * g.in[0] * g.in[1] * g.in[2], all = g.output_features(), taps = g.taps();
  auto x = Exactly<uint64_t>(g.input_words()), kernel = Exactly<uint64_t>(all * taps * g.words());
  std::vector<double> sign_x(in_pixels * g.groups * g.channels), sign_w(all * taps * g.channels);
  DrawSigns(g.channels, &sign_x, &x);
  DrawSigns(g.channels, &sign_w, &kernel);
  auto dy = Exactly<float>(g.pixels() * all), alpha = Exactly<float>(all);
  for (float& v : dy) v = Real();
  for (float& v : alpha) v = Real();

  // Gradients by definition. The sizes are sums of absolute values: rounding errors are relative to these.
  std::vector<double> dw(taps * g.channels * all), dw_size(dw), dx(sign_x.size()), dx_size(dx);
  EachTap(g, [&](int64_t out, int64_t tap, int64_t in) {
    for (int64_t f = 0; f < all; ++f) {
      const int64_t group = f / g.features;
      for (int64_t c = 0; c < g.channels; ++c) {
        const int64_t a = (in * g.groups + group) * g.channels + c, b = (f * taps + tap) * g.channels + c;
        const double d = dy[out * all + f];
        dw[(tap * g.channels + c) * all + f] += sign_x[a] * d;
        dw_size[(tap * g.channels + c) * all + f] += std::fabs(d);
        dx[a] += sign_w[b] * d * alpha[f];
        dx_size[a] += std::fabs(d * alpha[f]);
      }
    }
  });
  SameBits same_bits;
  for (const char* name : kIsaNames) {
    const Isa* isa = FindIsa(name);
    if (isa == nullptr) continue;
    auto one = Exactly<float>(dw.size()), three = Exactly<float>(dw.size());
    KernelGradient(g, x.data(), dy.data(), one.data(), *isa, Workers());
    KernelGradient(g, x.data(), dy.data(), three.data(), *isa, Threads(3));
    CheckClose(one, dw, dw_size, 1e-6, 1e-30, "kernel gradient", name);
    CHECK(one == three, "%s: the kernel gradient depends on the threads", name);
    same_bits.Check(one, "kernel gradient", name);
    auto got = Exactly<float>(dx.size()), same = Exactly<float>(dx.size());
    for (float& v : got) v = NAN;
    InputGradient(g, kernel.data(), alpha.data(), dy.data(), got.data(), *isa, Threads(3));
    CheckClose(got, dx, dx_size, 1e-6, 1e-30, "input gradient", name);
    InputGradient(g, kernel.data(), alpha.data(), dy.data(), same.data(), *isa, Workers());
    CHECK(got == same, "%s: the input gradient depends on the threads", name);
    same_bits.Check(got, "input gradient", name);
    const std::vector<float> ones(all, 1.f);
    InputGradient(g, kernel.data(), ones.data(), dy.data(), got.data(), *isa, Workers());
    InputGradient(g, kernel.data(), nullptr, dy.data(), same.data(), *isa, Workers());
    CHECK(got == same, "%s: alpha of 1 and no alpha differ", name);
  }
}

}  // namespace

int main(int argc, char** argv) {
  rng.seed(argc > 1 ? std::atoi(argv[1]) : 0);
  const int shapes = argc > 2 ? std::atoi(argv[2]) : 200;
  for (int i = 0; i < shapes; ++i) Check(DrawGeometry(i % 10 ? 80 : 600));
  PrintDone(shapes);
}
