"""Times train steps on one GPU: recu_jax, with many steps per dispatch, against eager and compiled PyTorch.

    python experiments/benchmarks/gpu.py --out=experiments/results/benchmarks/gpu.json

The CIFAR models run at batch 256, and `imagenet_resnet18` runs at batch 512. Images are noise: for recu_jax a uint8
data set on the device, for PyTorch one float32 batch.

There are five sides. recu_jax runs in bfloat16 and in float32. PyTorch runs eagerly in float32, and with
`torch.compile` in bfloat16, channels last, in two modes: the default, and `reduce-overhead`, which replays CUDA graphs.
Each side runs in a process of its own. All sides compile first, and then take turns. Each round of turns gives the
images a second of recu_jax in bfloat16, divided by those of each side of PyTorch.

The model-flops utilization is the operations a second of recu_jax's bfloat16 step, divided by those of a large bfloat16
matrix product on the same device. XLA counts the operations. A 1-bit operation counts as the float operation that it
stands for. `--rehearse` runs all of this on a CPU, with small inputs.
"""

import argparse
import contextlib
import datetime
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks import steps
from experiments.benchmarks.turns import Worker, environment

BATCH_SIZES = {"cifar_resnet20": 256, "cifar_resnet18": 256, "cifar_vgg_small": 256, "imagenet_resnet18": 512}
BARS = {
    **{(model, "torch_eager"): 4.0 for model in BATCH_SIZES if model.startswith("cifar")},
    **{(model, "torch_compiled"): 1.5 for model in BATCH_SIZES if model.startswith("cifar")},
    ("imagenet_resnet18", "torch_compiled"): 1.3,
}
COMPILED = ["--dtype=bfloat16", "--channels_last"]
SIDES = {
    "recu_jax": ("jax", ["--dtype=bfloat16"]),
    "recu_jax_float32": ("jax", ["--dtype=float32"]),
    "torch_eager": ("torch", ["--dtype=float32"]),
    "torch_compiled": ("torch", ["--compiled=default", *COMPILED]),
    "torch_graphs": ("torch", ["--compiled=reduce-overhead", *COMPILED]),
}
PEERS = [name for name, (side, _) in SIDES.items() if side == "torch"]


def measure(model, arguments, quietly=contextlib.nullcontext):
    """Returns the images a second of each round by side, and the versions by side.

    The timed turns are within one `with quietly():`. A caller can give a `quietly` that stops other work on the GPU.
    """
    batch, device, images = BATCH_SIZES[model], "gpu", []
    if arguments.rehearse:
        batch, device, images = 8, "cpu", ["--one_batch"]
    count = steps.GPU_STEPS_PER_DISPATCH if device == "gpu" else 1
    rates, workers = {name: [] for name in SIDES}, {}
    for name, (side, options) in SIDES.items():
        options = [f"--model={model}", f"--batch_size={batch}", f"--device={device}", *options, *images]
        workers[name] = Worker(
            side, sys.executable, Path(__file__).with_name("steps.py"), *options,
            platform="cuda" if device == "gpu" else "cpu",
        )  # fmt: skip
        if side == "torch":
            workers[name].ask(f"train {count}")  # compiles on the CPU, beside recu_jax's compilation
    for name, worker in workers.items():
        if name in PEERS:
            worker.answer()
        else:
            worker.turn(f"train {count}")  # one at a time: to compile, XLA times variants on the device
    with quietly():
        for worker in workers.values():  # once more, now with nothing else on the device; this turn is not counted
            worker.turn(f"train {count}")
        for _ in range(arguments.repeats):
            for name, worker in workers.items():
                rates[name].append(batch / worker.turn(f"train {count}")["seconds_per_step"])
    for worker in workers.values():
        worker.close()
    return rates, {name: worker.versions for name, worker in workers.items()}


def operations(model):
    """Returns the operations per image of a train step, counted in another process, which uses the CPU alone."""
    code = (
        "import json; from experiments.benchmarks import counted; "
        f"print(json.dumps(counted.count({model!r})['train']['operations']))"
    )
    env = environment(JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout) / steps.BATCH_SIZES[model]


def ceiling(rehearse):
    """Measures, in another process, how many operations per second a product of two large bfloat16 matrices reaches."""
    size = 512 if rehearse else 8192
    code = (
        "import jax, jax.numpy as jnp; from experiments.benchmarks import counted; "
        f"a = jnp.ones(({size}, {size}), jnp.bfloat16); "
        f"print(2 * {size}**3 / counted.best(jax.jit(lambda a: a @ a), a))"
    )
    env = environment(**({"JAX_PLATFORMS": "cpu"} if rehearse else {}))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=BATCH_SIZES, default=list(BATCH_SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    best, rows = ceiling(arguments.rehearse), {}
    for model in arguments.models:
        rates, versions = measure(model, arguments)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        utilisation = medians["recu_jax"] * operations(model) / best
        rows[model] = {"images_per_second": rates, "versions": versions, "model_flops_utilisation": utilisation}
        for peer in PEERS:
            ratios = [a / b for a, b in zip(rates["recu_jax"], rates[peer], strict=True)]
            bar = BARS.get((model, peer))
            rows[model][f"times_{peer}"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            print(
                f"{model:<18} {medians['recu_jax']:>8.0f} images/s, {statistics.median(ratios):.2f} times {peer} "
                f"({min(ratios):.2f} to {max(ratios):.2f}{f', bar {bar}' if bar else ''}), "
                f"{utilisation:.1%} of a matrix product",
                flush=True,
            )
        if arguments.out:
            arguments.out.write_text(json.dumps({
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "machine": platform.platform(), "matrix_product_operations_per_second": best, "rows": rows,
            }, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
