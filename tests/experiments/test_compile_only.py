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
    ("h100", "cifar_resnet20", 256): (759, 2.73, 0.27),
    ("h100", "cifar_resnet18", 256): (729, 8.05, 0.79),
    ("h100", "cifar_vgg_small", 256): (275, 5.71, 0.63),
    ("h100", "imagenet_resnet18", 512): (816, 63.8, 6.47),
    ("h100", "imagenet_resnet18", 4096): (834, 499, 51.3),
    ("v5e", "cifar_resnet20", 256): (None, 0.37, 0.2),
    ("v5e", "imagenet_resnet18", 512): (None, 45.5, 7.0),
    ("v5e-16", "imagenet_resnet18", 512): (None, 1.65, 0.72),
    ("v5e-16", "imagenet_resnet18", 4096): (None, 19.7, 3.9),
    ("v5e-256", "imagenet_resnet18", 512): (None, 0.33, 0.07),
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
    # Only the arguments images, labels and metrics are not donated. A TPU pads small arrays.
    data = share * (3 * image_size(row["model"]) ** 2 + 8)
    assert 0 <= memory["arguments"] - memory["aliased"] <= 1.2 * data
    # In bfloat16 every convolution reads bfloat16: nothing widens the signs before it.
    assert row["dtype"] != "bfloat16" or set(row["convolutions"]) == {"bf16"}
    assert "f64" not in row.get("dtypes", []) and not row.get("host_transfers")
    kernels, moved, temporaries = BUDGETS[row["target"], row["model"], row["batch"]]
    assert (row["kernels"] or 0) <= (kernels or 0)
    assert row["bytes"] <= moved * 1e9 and memory["temporaries"] <= temporaries * 1e9


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
