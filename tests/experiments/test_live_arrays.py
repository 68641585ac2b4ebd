"""Tests which arrays count as alive at the peak of a compiled program."""

from experiments.benchmarks.compiled_program import Program
from experiments.benchmarks.live_arrays import live_at_peak, tree

# The caller holds `a`, `h` and `k`. At `e`, which writes 8 bytes, these are alive: `b` through `view`, 40; `c`, 20;
# both arrays of `pair`, 2 x 36. One of these is read later.
TEXT = """
HloModule example, is_scheduled=true

ENTRY %main (a: f32[10]) -> (f32[2], bf16[2]) {
  %a = f32[10]{0} parameter(0)
  %b = f32[10]{0} exponential(%a)
  %view = f32[5,2]{1,0} bitcast(%b)
  %c = bf16[10]{0} convert(%a)
  %d = ((f32[9]{0}, f32[9]{0}), u8[0]{0}) fusion(%b, %c), kind=kInput, calls=%f
  %pair = (f32[9]{0}, f32[9]{0}) get-tuple-element(%d), index=0
  %one = f32[9]{0} get-tuple-element(%pair), index=1
  %e = f32[2]{0} fusion(%view, %c, %pair), kind=kLoop, calls=%g
  %w = (f32[2]{0}) while(%e), condition=%cond, body=%body
  %h = bf16[2]{0} fusion(%w, %one), kind=kLoop, calls=%i
  %k = f32[2]{0} negate(%h)
  ROOT %out = (f32[2]{0}, bf16[2]{0}) tuple(%k, %h)
}
"""


def test_arrays_at_the_peak():
    assert live_at_peak(Program(TEXT)) == {"f32[10]": 40, "bf16[10]": 20, "f32[9]": 72, "f32[2]": 8}


def test_an_array_lives_to_its_last_use():
    # Without `c` and `b`, the peak is at `h`.
    text = TEXT.replace("negate(%h)", "negate(%one)").replace("bf16[2]{0} fusion(%w", "f32[99]{0} fusion(%w")
    text = text.replace("tuple(%k, %h)", "tuple(%k, %k)")
    assert live_at_peak(Program(text)) == {"f32[99]": 396, "f32[9]": 36, "f32[2]": 8}


def test_shapes_as_trees():
    assert tree("bf16[2,3]{1,0:T(8,128)(2,1)}") == "bf16[2,3]"
    assert tree("((f32[4]{0}, f32[]), /*index=1*/u8[0]{0})") == [["f32[4]", "f32[]"], "u8[0]"]
