"""Runs train and evaluation steps of recu_jax and of PyTorch, which `run.py` and `gpu.py` time against each other.

Each side is a process of its own (`turns.Worker`) and may run in its own Python interpreter. A step consists of:

- torch: zero_grad, forward, loss, backward, SGD; in evaluation forward, loss and top-1. Its images are noise in
  float32, already in memory.
- jax: the trainer's own step. It also picks its images from the uint8 data set on the device and normalizes them.
  Training also crops and flips them, and evaluation also computes top-5. PyTorch users prepare images in their data
  loader, so jax's figure includes a little more work.
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
# Number of images, by their height. 32: as many as CIFAR-10 has, so that picking a batch misses the processor's caches
# as often as in training on CIFAR-10. 224: 77 MB of images.
IMAGES = {32: 50_000, 224: 512}
# Training steps that the trainer runs in one call on a GPU, as in `recu_jax.ops.backend`.
GPU_STEPS_PER_DISPATCH = 64
TAU = 0.85  # PyTorch's tau; the jax side starts with the same tau, that of the recipe's first epoch


def image_size(model):
    """Returns the height and width of the images that a model is made for."""
    return 224 if _of_imagenet(model) else 32


def classes(model):
    """Returns the number of classes of the data set that a model is made for."""
    return 1000 if _of_imagenet(model) else 10


def _of_imagenet(model):
    return model.startswith(("imagenet", "react"))


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its data, and how its steps are run.

    Attributes:
      model: name of the model.
      batch_size: images per step.
      num_images: images in the data set.
      device: "cpu" or "gpu".
      dtype: "float32" or "bfloat16", in which steps compute.
      compiled: mode of `torch.compile`, "default" or "reduce-overhead" (which replays CUDA graphs); None runs eagerly.
      channels_last: whether PyTorch keeps arrays in this layout.
      instructions: which of `native.instruction_sets()` recu_jax's kernels use; None takes the fastest. With "avx2"
        programs of `torch.compile` use vectors of at most 256 bits.
      nonlinearity: the config's field, for recu_jax alone.
    """

    model: str
    batch_size: int
    num_images: int
    device: str = "cpu"
    dtype: str = "float32"
    compiled: str | None = None
    channels_last: bool = False
    instructions: str | None = None
    nonlinearity: str | None = None


# Each `prepare_*` returns versions, the bytes of resident memory before it made the model, and, by kind of step, a
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
    if case.compiled and case.instructions == "avx2":
        import torch._inductor.config

        torch._inductor.config.cpp.simdlen = 256
    network = torch.compile(model, mode=case.compiled) if case.compiled else model

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
    """Returns a data set of `count` training images of uint8 noise, in the shape of CIFAR-10 or ImageNet."""
    import numpy as np

    from recu_jax.data import Dataset
    from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD

    rng, size = np.random.default_rng(0), image_size(model_name)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, classes(model_name), count, np.int32)
    return Dataset(images, labels, images[:1], labels[:1], classes(model_name), IMAGENET_MEAN, IMAGENET_STD)


def jax_steps(case, dataset):
    """Returns the trainer's first state and, by kind of step, a jitted step and a function that returns its arguments.

    The function returns the arguments of the next call, without the state, which is the first argument. On a GPU, a
    call of the train step runs `GPU_STEPS_PER_DISPATCH` steps.
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
    config.nonlinearity = case.nonlinearity
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
        if case.instructions not in native.instruction_sets():  # this call also registers the kernels
            raise SystemExit(f"--instructions={case.instructions}: here are {', '.join(native.instruction_sets())}")
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
    versions |= {"device": jax.devices()[0].device_kind, "kernels": native.cpu_backend()}
    return versions, before, {"train": train, "eval": evaluate}


def resident(field):
    """Returns this process's bytes in memory: now for "VmRSS", the peak since `forget_peak` for "VmHWM"."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def work(side, case):
    """Serves one side: reads lines `KIND STEPS` from stdin, and answers each with a JSON line that has the costs."""
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
    parser.add_argument("--one_batch", action="store_true", help="a data set of one batch")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compiled", choices=("default", "reduce-overhead"))
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--instructions", metavar="SET", help="as in run.py")
    parsed = parser.parse_args()
    batch = parsed.batch_size or BATCH_SIZES[parsed.model]
    images = batch if parsed.one_batch else max(batch, IMAGES[image_size(parsed.model)])
    how = (parsed.device, parsed.dtype, parsed.compiled, parsed.channels_last, parsed.instructions)
    work(parsed.worker, Case(parsed.model, batch, images, *how))
