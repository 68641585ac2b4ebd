"""Times forward convolutions of signs, +1 and -1, on one GPU, in each dtype that may be fast there.

    python experiments/benchmarks/gpu_forward.py --out=experiments/results/benchmarks/gpu_forward.json

The layers are those of the networks, at the batch sizes of `gpu.py`. Their sums are integers below 2^24, so a dtype
whose products are added in float32 or int32 should give exact sums. The script compares the sums of each dtype with
those of float32. A timed call does what a train step does: it takes the signs of bfloat16 activations and weights,
convolves the signs in the dtype, and converts the sums to bfloat16. Dtypes take turns. `--rehearse` uses small
batches, for a machine without a GPU.
"""

import argparse
import datetime
import functools
import json
import platform
import statistics
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks.counted import best

# By name: batch, height (which is also the width), input channels, output channels.
LAYERS = {
    "cifar_resnet20, 16": (256, 32, 16, 16),
    "cifar_resnet20, 32": (256, 16, 32, 32),
    "cifar_resnet20, 64": (256, 8, 64, 64),
    "cifar_resnet18, 64": (256, 32, 64, 64),
    "cifar_resnet18, 128": (256, 16, 128, 128),
    "cifar_resnet18, 256": (256, 8, 256, 256),
    "cifar_resnet18, 512": (256, 4, 512, 512),
    "cifar_vgg_small, 128": (256, 32, 128, 128),
    "cifar_vgg_small, 256 to 512": (256, 8, 256, 512),
    "imagenet_resnet18, 64": (512, 56, 64, 64),
    "imagenet_resnet18, 128": (512, 28, 128, 128),
    "imagenet_resnet18, 256": (512, 14, 256, 256),
    "imagenet_resnet18, 512": (512, 7, 512, 512),
}
# By name, the dtype of the signs and the dtype of their sums. In a bfloat16 run, recu_jax's layers convolve bfloat16.
TYPES = {
    "bfloat16": (jnp.bfloat16, jnp.float32),
    "float32": (jnp.float32, jnp.float32),
    "int8": (jnp.int8, jnp.int32),
    "float8_e4m3fn": (jnp.float8_e4m3fn, jnp.float32),
}


@functools.partial(jax.jit, static_argnames="name")
def forward(operands, name):
    """Convolves the signs of activations with the signs of a 3x3 kernel, and returns the sums in bfloat16.

    `operands` holds the activations and the kernel. `name` is a key of `TYPES`.
    """
    kind, summed = TYPES[name]
    signs = (jnp.where(a >= 0, 1, -1).astype(kind) for a in operands)
    sums = lax.conv_general_dilated(
        *signs, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=summed
    )
    return sums.astype(jnp.bfloat16)


def measure(shape, repeats):
    """Returns, for each dtype, whether its sums equal those of float32, and the milliseconds of each turn.

    For a dtype that JAX refuses, returns JAX's error message instead.
    """
    batch, size, channels, features = shape
    r = np.random.default_rng(0)
    x = jnp.asarray(r.standard_normal((batch, size, size, channels), np.float32), jnp.bfloat16)
    kernel = jnp.asarray(r.standard_normal((3, 3, channels, features), np.float32), jnp.bfloat16)
    expected = np.asarray(forward((x, kernel), "float32").astype(jnp.float32))
    found = {}
    for name in TYPES:
        try:
            sums = np.asarray(forward((x, kernel), name).astype(jnp.float32))
        except (jax.errors.JaxRuntimeError, NotImplementedError, TypeError) as error:
            found[name] = {"refused": str(error).splitlines()[0][:200]}
        else:
            found[name] = {"exact": bool((sums == expected).all()), "milliseconds": []}
    for _ in range(repeats):
        for name, row in found.items():
            if "milliseconds" in row:
                seconds = best(lambda operands, name=name: forward(operands, name), (x, kernel))
                row["milliseconds"].append(1000 * seconds)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    device, rows = jax.devices()[0], {}
    for layer, (batch, *shape) in LAYERS.items():
        rows[layer] = measure((2 if arguments.rehearse else batch, *shape), arguments.repeats)
        cells = []
        for name, row in rows[layer].items():
            wrong = "" if row.get("exact") else " WRONG"
            cells.append(
                f"{name} {statistics.median(row['milliseconds']):.3f} ms{wrong}"
                if "milliseconds" in row
                else f"{name} refused"
            )
        print(f"{layer:<28}", *cells, sep="  ", flush=True)
        if arguments.out:
            result = {
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "device": device.device_kind, "system": platform.platform(),
                "versions": {"python": platform.python_version(), "jax": jax.__version__}, "rows": rows,
            }  # fmt: skip
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
