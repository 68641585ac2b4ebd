"""Train and evaluation steps, recu_jax's and PyTorch's: the sides that `run.py` times against each other.

A side is a process of its own (`turns.Worker`), in an interpreter of its own. What a step holds:

- torch: zero_grad, forward, loss, backward, SGD; in evaluation forward, loss and top-1; on normalised float32 images
  already in memory.
- jax: the trainer's own step, which also picks its images from the uint8 data set on the device, crops, flips and
  normalises them; in evaluation top-5 as well. PyTorch would pay for that in its data loader, so jax's figure
  includes a little more work.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import os
import platform
import resource
import sys
from pathlib import Path

from experiments.benchmarks.turns import answers, others_busy

BATCH_SIZES = {"cifar_resnet20": 256, "cifar_resnet18": 64, "cifar_vgg_small": 64, "imagenet_resnet18": 16}
KINDS = ("train", "eval")
# Number of images, by their height. 32: as many as CIFAR-10 has, so that picking a batch misses the caches as often as
# it does there. 224: 77 MB of photographs.
IMAGES = {32: 50_000, 224: 512}
# Steps that the trainer puts into one call to a device: `recu_jax.ops.backend`.
GPU_STEPS_PER_DISPATCH = 64
TAU = 0.85  # the recipe's first epoch, where the jax side is too


def image_size(model):
    """Height and width of the images that a model is made for."""
    return 224 if _of_imagenet(model) else 32


def classes(model):
    """How many classes it tells apart."""
    return 1000 if _of_imagenet(model) else 10


def _of_imagenet(model):
    return model.startswith(("imagenet", "react"))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is run, and how.

    Attributes:
      model: its name.
      batch_size: images a step.
      num_images: of the data set.
      device: "cpu" or "gpu".
      dtype: "float32" or "bfloat16", of the computation.
      compiled: PyTorch with `torch.compile`.
      channels_last: PyTorch with this layout.
      instructions: set of the compiled kernels, of `native.instruction_sets()`; None takes the fastest.
    """

    model: str
    batch_size: int
    num_images: int
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False
    channels_last: bool = False
    instructions: str | None = None


# Each `prepare_*` returns the versions it runs on, the resident memory before there was a model, and, by kind, a
# function that runs n steps, waits for them and returns the last loss.


def prepare_torch(case):
    import torch

    from experiments.benchmarks import torch_recu

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    before = resident("VmRSS")
    device = "cuda" if case.device == "gpu" else "cpu"
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    model = torch_recu.build(case.model).to(device, memory_format=layout)
    optimizer = torch_recu.make_optimizer(model)
    size = image_size(case.model)
    images = torch.randn(case.batch_size, 3, size, size, device=device).contiguous(memory_format=layout)
    labels = torch.randint(classes(case.model), (case.batch_size,), device=device)
    half = torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16")
    network = torch.compile(model) if case.compiled else model

    def train(n):
        model.train()
        for _ in range(n):
            with half:
                loss = torch_recu.train_step(network, optimizer, images, labels, TAU)
        return loss.item()

    def evaluate(n):
        model.eval()
        for _ in range(n):
            with half:
                loss, _ = torch_recu.eval_step(network, images, labels)
        return loss.item()

    return {"torch": torch.__version__}, before, {"train": train, "eval": evaluate}


def random_dataset(model_name, count):
    """`count` images of uint8 noise in the shape of CIFAR-10 or ImageNet."""
    import numpy as np

    from recu_jax.data import Dataset
    from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD

    rng, size = np.random.default_rng(0), image_size(model_name)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, classes(model_name), count, np.int32)
    return Dataset(images, labels, images[:1], labels[:1], classes(model_name), IMAGENET_MEAN, IMAGENET_STD)


def jax_steps(case, dataset):
    """The trainer's state before its first step and, by kind, a jitted step and what makes its further arguments.

    On a GPU a call is `GPU_STEPS_PER_DISPATCH` training steps.
    """
    import jax
    import numpy as np

    from recu_jax.config import base_config
    from recu_jax.data import order
    from recu_jax.training import step
    from recu_jax.training.recipe import for_cpus, make_recipe

    batches = order.train_order(0, 0, len(dataset.train_images), case.batch_size)
    config = base_config()
    config.model = case.model
    config.batch_size = case.batch_size
    config.dtype = case.dtype
    devices = jax.local_devices()[:1]
    recipe = make_recipe(config, dataset, steps_per_epoch=len(batches))
    if case.device == "cpu":  # as the trainer does
        recipe = for_cpus(recipe)
    state = step.create_state(recipe, config.seed, dataset.train_images.shape[1:])
    state, images, labels = step.replicate((state, dataset.train_images, dataset.train_labels), devices)
    train_step = step.parallel(
        functools.partial(step.train_resident, recipe=recipe), devices, (False, False, False, False, True), donate=True
    )
    eval_step = step.parallel(
        functools.partial(step.eval_resident, recipe=recipe), devices, (False, False, False, True, True), donate=False
    )
    upcoming = itertools.cycle(batches)
    weights = np.ones((1, case.batch_size), np.float32)
    several = GPU_STEPS_PER_DISPATCH if case.device == "gpu" else 1

    def orders():
        return np.stack([next(upcoming) for _ in range(several)])[None]

    return state, {
        "train": (train_step, lambda: ({}, images, labels, orders())),
        "eval": (eval_step, lambda: (images, labels, next(upcoming)[None], weights)),
    }


def prepare_jax(case):
    import flax
    import jax
    import jaxlib
    import numpy as np

    from recu_jax.ops import backend, native

    backend.set_xla_flags()
    if case.instructions:
        native.cpu_backend = lambda: case.instructions
    jax.block_until_ready(jax.numpy.zeros(1))
    before = resident("VmRSS")
    state, steps = jax_steps(case, random_dataset(case.model, case.num_images))
    several = GPU_STEPS_PER_DISPATCH if case.device == "gpu" else 1

    def train(n):
        nonlocal state
        step, arguments = steps["train"]
        if n % several:
            raise ValueError(f"{n} steps are not whole dispatches of {several}")
        for _ in range(n // several):
            state, metrics = step(state, *arguments())
        return np.asarray(metrics["loss"])[-1].item()

    def evaluate(n):
        step, arguments = steps["eval"]
        for _ in range(n):
            sums = step(state, *arguments())
        return np.asarray(sums["loss"]).item()

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
    return {**versions, "kernels": native.cpu_backend()}, before, {"train": train, "eval": evaluate}


def resident(field):
    """Bytes of this process in memory: now, "VmRSS", or at most since `forget_peak`, "VmHWM"."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def work(side, case):
    """Serves one side over its pipes: a line `KIND STEPS` in, a JSON line with its cost out."""
    answer = answers()
    versions, before, runs = {"jax": prepare_jax, "torch": prepare_torch}[side](case)
    answer(python=platform.python_version(), **versions)
    for line in sys.stdin:
        kind, steps = line.split()
        steps = int(steps)
        forget_peak()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        loss, seconds, share = others_busy(lambda kind=kind, steps=steps: runs[kind](steps))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the {side} loss is {loss}: these steps train nothing")
        peak = resident("VmHWM") - before
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        costs = {"seconds_per_step": seconds / steps, "page_faults_per_step": faults / steps, "peak_bytes": peak}
        answer(share_of_others=share, **costs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", choices=("jax", "torch"), required=True)
    parser.add_argument("--model", choices=BATCH_SIZES, required=True)
    parser.add_argument("--one_batch", action="store_true", help="a data set of one batch: memory is the step's")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--instructions", metavar="SET", help="avx512, avx2 or portable; the fastest by default")
    parsed = parser.parse_args()
    batch = parsed.batch_size or BATCH_SIZES[parsed.model]
    images = batch if parsed.one_batch else max(batch, IMAGES[image_size(parsed.model)])
    how = (parsed.device, parsed.dtype, parsed.compiled, parsed.channels_last, parsed.instructions)
    work(parsed.worker, Case(parsed.model, batch, images, *how))
