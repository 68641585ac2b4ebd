"""Times one train step of a recu_jax model against the same model in eager PyTorch, on the CPU.

Seconds on a shared machine drift by tens of percent within minutes, so two runs one after the other
compare the machine's moods. Here both sides are prepared and warmed up first, each in an
interpreter of its own, and then take turns (jax, torch, jax, torch, ...) while the other one is
idle; the ratio is taken within each pair of neighbours and its median over the pairs is reported.

    python experiments/benchmarks/train_step.py --model=cifar_resnet20 --batch_size=256 \\
        --torch_python=$HOME/torch-env/bin/python --out=train_step.json

jax and torch may live in different environments: `--jax_python` and `--torch_python` name the
interpreters, the current one by default. The parent process needs the standard library only, and
Linux: it reads /proc to tell whether other processes disturbed the comparison.

What a step holds:

- torch: zero_grad, forward, loss, backward, SGD, on normalised float32 images already in memory.
- jax: the trainer's own step, which also picks its images from the uint8 data set on the device,
  crops, flips and normalises them. PyTorch would pay for that in its data loader, so jax's figure
  includes a little more work.
"""

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from turns import Worker, answers, cpu_model, others_busy

SIDES = ("jax", "torch")
CIFAR_IMAGE_SIZE = 32
CIFAR_TRAIN_IMAGES = 50_000
TAU = 0.85  # the recipe's first epoch, where the jax side is too
WARMUP_STEPS = 2  # the first compiles, the second meets warm caches
# OpenMP threads keep spinning after their last loop, 0.2 s in some runtimes; let them fall asleep
# before the other side's clock starts.
SETTLE_SECONDS = 0.3
# Two turns do not suffer alike from a busy machine: beside another load on 2 cores PyTorch, whose
# threads wait for each other after every operation, took 2 to 4 times as long, jax 1.8 times.
MAX_SHARE_OF_OTHERS = 0.05


# Workers. Each `prepare_*` returns the versions it runs on and a function that runs n train steps,
# waits for them and returns the last loss.


def prepare_torch(model_name, batch_size):
    import torch
    import torch_recu

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    model = torch_recu.build(model_name)
    optimizer = torch_recu.make_optimizer(model)
    images = torch.randn(batch_size, 3, CIFAR_IMAGE_SIZE, CIFAR_IMAGE_SIZE)
    labels = torch.randint(10, (batch_size,))

    def run_steps(n):
        for _ in range(n):
            loss = torch_recu.train_step(model, optimizer, images, labels, TAU)
        return loss.item()

    return {"torch": torch.__version__}, run_steps


def prepare_jax(model_name, batch_size):
    import flax
    import jax
    import jaxlib
    import numpy as np

    from recu_jax import backend, train
    from recu_jax.config import base_config
    from recu_jax.data import Dataset, order
    from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
    from recu_jax.recipe import make_recipe

    backend.set_xla_flags()
    rng = np.random.default_rng(0)
    # As many images as CIFAR-10 has, so that picking a batch misses the caches as it does there.
    size = (CIFAR_TRAIN_IMAGES, CIFAR_IMAGE_SIZE, CIFAR_IMAGE_SIZE, 3)
    images = rng.integers(0, 256, size, np.uint8)
    labels = rng.integers(0, 10, CIFAR_TRAIN_IMAGES, np.int32)
    dataset = Dataset(images, labels, images[:1], labels[:1], 10, IMAGENET_MEAN, IMAGENET_STD)
    batches = order.train_order(0, 0, CIFAR_TRAIN_IMAGES, batch_size)

    config = base_config()
    config.model = model_name
    config.batch_size = batch_size
    devices = jax.local_devices()[:1]
    recipe = make_recipe(config, dataset, steps_per_epoch=len(batches))
    state = train.create_state(recipe, config.seed, size[1:])
    state, images, labels = train.replicate((state, images, labels), devices)
    steps = train.parallel(
        functools.partial(train.train_steps, recipe=recipe),
        devices,
        mapped=(False, False, False, False, True),
        donate=True,
    )
    upcoming = itertools.cycle(batches)

    def run_steps(n):
        nonlocal state
        for _ in range(n):  # one a dispatch, as the trainer does on the CPU
            state, metrics = steps(state, {}, images, labels, next(upcoming)[None, None])
        return np.asarray(metrics["loss"]).item()

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
    return versions, run_steps


def work(side, model_name, batch_size, steps):
    """Serves one side over its pipes: a line `go` in, a JSON line with seconds per step out."""
    answer = answers()
    prepare = {"jax": prepare_jax, "torch": prepare_torch}[side]
    versions, run_steps = prepare(model_name, batch_size)
    for _ in range(WARMUP_STEPS):
        run_steps(1)
    answer(python=platform.python_version(), **versions)
    for line in sys.stdin:
        if line.strip() != "go":
            raise ValueError(f"unknown request {line!r}; the only one is 'go'")
        loss, seconds, share = others_busy(lambda: run_steps(steps))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the {side} loss is {loss}: these steps train nothing")
        answer(seconds_per_step=seconds / steps, share_of_others=share)


# Parent: starts the workers, gives each its turn, reports.


def measure(model, batch_size, repeats, steps, pythons):
    """What `repeats` turns of each side answered, and the versions they ran on."""
    arguments = [f"--model={model}", f"--batch_size={batch_size}", f"--steps={steps}"]
    with contextlib.ExitStack() as stack:
        workers = []
        for side in SIDES:  # one after the other: compilation and warm-up do not compete either
            workers.append(Worker(side, pythons[side], __file__, *arguments))
            stack.callback(workers[-1].close)
        turns = {side: [] for side in SIDES}
        for _ in range(repeats):
            for worker in workers:
                time.sleep(SETTLE_SECONDS)
                turns[worker.side].append(worker.turn("go"))
        return turns, {worker.side: worker.versions for worker in workers}


def summarize(turns, batch_size):
    """Median, extremes and throughput a side; the ratio jax / torch within each pair of turns."""
    seconds = {side: [turn["seconds_per_step"] for turn in turns[side]] for side in SIDES}
    sides = {}
    for side, values in seconds.items():
        median = statistics.median(values)
        sides[side] = {
            "median_seconds": median,
            "min_seconds": min(values),
            "max_seconds": max(values),
            "images_per_second": batch_size / median,
        }
    ratios = [a / b for a, b in zip(seconds["jax"], seconds["torch"], strict=True)]
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    others = max(turn["share_of_others"] for side in SIDES for turn in turns[side])
    return {"sides": sides, "ratio_jax_to_torch": ratio, "largest_share_of_others": others}


def print_table(result):
    row = "{:<16} {:>5}  {:<5}  {:>9} {:>7} {:>7} {:>9}  {}"
    print(row.format("model", "batch", "side", "s/step", "min", "max", "images/s", "versions"))
    for side, numbers in result["sides"].items():
        versions = result["versions"][side].items()
        print(
            row.format(
                result["model"],
                result["batch_size"],
                side,
                f"{numbers['median_seconds']:.3f}",
                f"{numbers['min_seconds']:.3f}",
                f"{numbers['max_seconds']:.3f}",
                f"{numbers['images_per_second']:.0f}",
                ", ".join(f"{name} {version}" for name, version in versions),
            )
        )
    ratio = result["ratio_jax_to_torch"]
    print(f"jax / torch: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    if result["largest_share_of_others"] > MAX_SHARE_OF_OTHERS:
        print(
            f"Not a fair comparison: other processes took {result['largest_share_of_others']:.0%} "
            "of the processors during a turn. Repeat it on an idle machine."
        )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar_resnet20")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="train steps in one turn")
    for side in SIDES:
        parser.add_argument(f"--{side}_python", default=sys.executable, metavar="PATH")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("batch_size", "repeats", "steps"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; use 1 or more")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.worker:
        work(arguments.worker, arguments.model, arguments.batch_size, arguments.steps)
        return
    pythons = {"jax": arguments.jax_python, "torch": arguments.torch_python}
    turns, versions = measure(arguments.model, arguments.batch_size, arguments.repeats, arguments.steps, pythons)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "steps_per_turn": arguments.steps,
        "versions": versions,
        **summarize(turns, arguments.batch_size),
        "turns": turns,
    }
    print_table(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
