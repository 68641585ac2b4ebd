// Asks the processor for x86 instruction sets, and the operating system whether it saves their registers. This file
// replaces __builtin_cpu_supports, which always says no if zig compiles it.

#pragma once

#if defined(__x86_64__)

#include <cpuid.h>

namespace recu {

struct X86Features {
  bool avx2;    // with FMA
  bool avx512;  // F, BW, VL, DQ and VPOPCNTDQ, with AVX2 and FMA
};

inline X86Features FindX86Features() {
  const auto has = [](unsigned bits, int bit) { return (bits >> bit & 1) != 0; };
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return {};
  const bool fma = has(ecx, 12), xgetbv = has(ecx, 27), avx = has(ecx, 28);
  if (!xgetbv || !avx || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return {};
  unsigned saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  // Bits 1 and 2: registers of AVX. Bits 5 to 7: those of AVX-512.
  const bool avx2 = (saved & 0x06) == 0x06 && fma && has(ebx, 5);
  const bool avx512 = has(ebx, 16) && has(ebx, 17) && has(ebx, 30) && has(ebx, 31) && has(ecx, 14);
  return {avx2, avx2 && avx512 && (saved & 0xe6) == 0xe6};
}

}  // namespace recu

#endif
