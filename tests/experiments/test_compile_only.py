"""Tests how compiled programs are read, and the command that compiles for devices that the machine does not have."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.compile_targets import TARGETS
from experiments.benchmarks.compiled_program import Program, size
from experiments.benchmarks.steps import image_size
from tests.support import ROOT

RECORDS = [json.loads(p.read_text()) for p in sorted(ROOT.glob("experiments/results/compile_only/*.json"))]
# Limits of a training step by target, model and batch size: kernels, GB of memory traffic, GB of temporaries. If a
# change needs more, its author raises the limit and says why.
BUDGETS = {
    ("h100", "cifar_resnet18", 256): (398, 7.5, 0.977),
    ("h100", "cifar_resnet20", 256): (410, 2.2, 0.3),
    ("h100", "cifar_vgg_small", 256): (190, 4.27, 0.521),
    ("h100", "imagenet_resnet18", 4096): (490, 449, 54.6),
    ("h100", "imagenet_resnet18", 512): (465, 57.1, 6.85),
    ("v5e-16", "cifar_resnet18", 256): (None, 0.264, 0.047),
    ("v5e-16", "cifar_resnet20", 256): (None, 0.00507, 0.0061),
    ("v5e-16", "cifar_vgg_small", 256): (None, 0.0858, 0.00404),
    ("v5e-16", "imagenet_resnet18", 4096): (None, 18.9, 3.11),
    ("v5e-16", "imagenet_resnet18", 512): (None, 1.54, 0.711),
    ("v5e-256", "cifar_resnet18", 256): (None, 0.238, 0.0424),
    ("v5e-256", "cifar_resnet20", 256): (None, 0.00445, 0.00764),
    ("v5e-256", "cifar_vgg_small", 256): (None, 0.0851, 0.00443),
    ("v5e-256", "imagenet_resnet18", 4096): (None, 0.736, 0.345),
    ("v5e-256", "imagenet_resnet18", 512): (None, 0.337, 0.0665),
    ("v5e", "cifar_resnet18", 256): (None, 1.67, 0.431),
    ("v5e", "cifar_resnet20", 256): (None, 0.179, 0.102),
    ("v5e", "cifar_vgg_small", 256): (None, 1.4, 0.373),
    ("v5e", "imagenet_resnet18", 512): (None, 42.3, 5.5),
}

# The kernels are: `m`, in a loop of three iterations; `rows`, a fusion that reads a part of `a`; `ar`; and `conv`.
# `done` only waits for `ar`.
TEXT = """
HloModule example

%fused (p.0: bf16[100,8], p.1: s32[4]) -> bf16[4,8] {
  %p.0 = bf16[100,8]{1,0} parameter(0)
  %p.1 = s32[4]{0} parameter(1)
  ROOT %g = bf16[4,8]{1,0} gather(%p.0, %p.1), offset_dims={1}, slice_sizes={1,8}
}

%body (b: (f32[2])) -> (f32[2]) {
  %b = (f32[2]{0}) parameter(0)
  %e = f32[2]{0:T(256)} get-tuple-element(%b), index=0
  %m = f32[2]{0} multiply(%e, %e)
  ROOT %t = (f32[2]{0}) tuple(%m)
}

ENTRY %main (a: bf16[100,8], i: s32[4], f: (f32[2])) -> bf16[4,8] {
  %a = bf16[100,8]{1,0} parameter(0)
  %i = s32[4]{0} parameter(1)
  %f = (f32[2]{0}) parameter(2)
  %w = (f32[2]{0}) while(%f), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %rows = bf16[4,8]{1,0} fusion(%a, %i), kind=kCustom, calls=%fused
  %r = f32[16]{0} constant({...})
  %ar = f32[16]{0} all-reduce-start(%r), replica_groups={{0,1}}, to_apply=%add
  %done = f32[16]{0} all-reduce-done(%ar)
  %conv = (bf16[4,8]{1,0}, u8[32]{0}) custom-call(%rows, %rows), custom_call_target="__cudnn$convForward"
  ROOT %out = bf16[4,8]{1,0} get-tuple-element(%conv), index=0
}
"""


def test_kernels_bytes_and_collectives_of_a_program():
    program = Program(TEXT)
    assert [line.name for line in program.kernels()] == ["m"] * 3 + ["rows", "ar", "conv"]
    # In bytes: `m` writes 8 and reads 2 x 8, three times. `rows` writes 64, and reads 64 of `a` and 16 of `i`. `ar`
    # writes 64 and reads 64. `conv` writes 64 + 32 and reads 2 x 64.
    assert program.bytes_moved() == 3 * 24 + 144 + 128 + 224
    assert program.collectives() == {"all-reduce": {"count": 1, "bytes": 64}}
    assert program.convolutions() == {"bf16": 1}


# `near` is a copy of `far` in the memory beside the compute units, S(1). `sum` reads it there. `slice` copies a quarter
# of `far` into the same memory.
OF_A_TPU = """
ENTRY %main (far: f32[8,128]) -> f32[8,128] {
  %far = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%far)
  %near = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %slice = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%far), slice={[0:2]}
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(%near, %near)
}
"""


def test_what_lies_beside_a_tpus_compute_units_costs_no_bandwidth():
    program = Program(OF_A_TPU)
    assert [line.opcode for line in program.kernels()] == ["copy-start", "slice-start", "add"]
    # The copy reads 4096 bytes, the slice reads 1024, and the sum writes 4096.
    assert program.bytes_moved() == 4096 + 1024 + 4096


@pytest.mark.parametrize("row", RECORDS, ids=lambda r: f"{r['target']}-{r['model']}-{r['kind']}-{r['batch']}")
def test_recorded_programs_stay_within_their_budgets(row):
    memory, share = row["memory"], row["batch"] // row["devices"]
    assert memory["needed"] < memory["of_device"]
    # Only the arguments images, labels and metrics are not donated. A TPU pads a small batch of small images fourfold.
    side = image_size(row["model"])
    data = share * (3 * side**2 + 8)
    assert 0 <= memory["arguments"] - memory["aliased"] <= data * (5 if share < 32 and side == 32 else 1.2)
    # In bfloat16 every convolution reads bfloat16: nothing widens the signs before it.
    assert row["dtype"] != "bfloat16" or set(row["convolutions"]) == {"bf16"}
    assert "f64" not in row.get("dtypes", []) and not row.get("host_transfers")
    kernels, moved, temporaries = BUDGETS[row["target"], row["model"], row["batch"]]
    assert (row["kernels"] or 0) <= (kernels or 0)
    assert row["bytes"] <= moved * 1e9 and memory["temporaries"] <= temporaries * 1e9
    # The arrays that the record lists are the greater part of the memory at the peak.
    if row["target"] == "h100":
        assert 0.8 * memory["temporaries"] <= sum(row["at_peak"].values()) <= 1.05 * memory["temporaries"]


def test_dtypes_and_transfers_to_the_host():
    program = Program(TEXT)
    assert program.dtypes() == ["bf16", "f32", "s32", "u8"] and program.transfers() == 0
    more = "%h = f64[2]{0:S(5)} copy(%f)\n  %o = token[] outfeed(%f)\n  %r = f32[16]{0}"
    program = Program(TEXT.replace("%r = f32[16]{0}", more))
    assert "f64" in program.dtypes() and program.transfers() == 2


def test_sizes_of_shapes():
    assert size("(bf16[2,3]{1,0:T(8,128)(2,1)}, pred[5], /*index=2*/f32[], s4[8], f8e4m3fn[7])") == 12 + 5 + 4 + 4 + 7


def test_a_program_that_xla_compiled_here():
    def step(x, k):
        y = jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(y)

    program = Program(jax.jit(step).lower(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))).compile().as_text())
    assert program.convolutions() == {"f32": 1} and program.bytes_moved() >= 2 * (2 * 8 * 8 * 4) * 4


def test_targets_have_all_that_a_bound_needs():
    assert {"h100", "h200", "a100", "b200"} < set(TARGETS)
    assert {f"{kind}{n}" for kind in ("v4", "v5e", "v5p", "v6e") for n in ("", "-4", "-16", "-256")} < set(TARGETS)
    assert TARGETS["v5e-16"].devices == 16 and TARGETS["v4-16"].devices == 32
    for target in TARGETS.values():
        assert min(target.memory, target.bandwidth, *target.peaks.values()) > 1e9
        assert set(target.peaks) == {"bfloat16", "float32"} and (target.platform == "cuda") == bool(target.description)


@pytest.mark.parametrize(
    "arguments,status,words",
    [
        (["--list"], 0, "v5e-256"),
        (["--targets=v9"], 2, "'v9' is none of: v4, "),
        (["--models=resnet"], 2, "'resnet' is none of: cifar_resnet20, "),
    ],
)
def test_the_command_names_its_choices(arguments, status, words):
    command = [sys.executable, "experiments/benchmarks/compile_only.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status and words in done.stdout + done.stderr
