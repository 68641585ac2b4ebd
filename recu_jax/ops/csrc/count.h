// Counts bits for several pixels. isa_avx2.cc and isa_neon.cc include this file within their target regions and unnamed
// namespaces. Before that line they must define the template CountOf<P>(gathered, stride, panel, depth, all, sums). It
// counts for P pixels, 1 or 2: the registers hold the counts of two pixels.

void Count(const uint64_t* gathered, int64_t stride, const uint64_t* panel, int64_t depth, int pixels, int32_t all,
           int32_t* sums) {
  int p = 0;
  for (; p + 2 <= pixels; p += 2) CountOf<2>(gathered + p, stride, panel, depth, all, sums + 16 * p);
  if (p < pixels) CountOf<1>(gathered + p, stride, panel, depth, all, sums + 16 * p);
}
