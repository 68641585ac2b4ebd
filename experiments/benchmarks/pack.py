"""Times a user's own Flax model, packed by `recu_jax.pack`, against its float32 self, for one image on one thread.

    python experiments/benchmarks/pack.py --model=resnet18 --out=pack_resnet18.json
    python experiments/benchmarks/pack.py --model=vgg --out=pack_vgg.json

Both models take their convolution as an argument: `recu_jax.BinaryConv`, or `nn.Conv` for the float32 self. The first
layer, the shortcuts' convolutions and the last layer are float32 in both.

- `resnet18` is ImageNet's ResNet-18, 224x224, with a shortcut around each 3x3 convolution and hardtanh.
- `vgg` is VGG-small for 32x32 images, with strides in the place of pooling. Between its binary convolutions are batch
  norm, hardtanh and the sign alone, so it gains the most if these are folded into thresholds on the sums.

The sides take turns. Each is a process of its own, pinned to one core, with `recu_jax.set_xla_flags`, by which the
float32 self is the faster, too:

- `float`: `jax.jit(model.apply)(variables, x)` of the float32 self.
- `packed`: `jax.jit(model.apply)(packed, x)`.
- `inside`: `jax.jit(lambda x: model.apply(packed, x))`. The compiled program holds the bits, in the order that the
  kernels need. `packed` puts them into this order in each call.
- `folded`, of `vgg` alone: as `inside`, with the folding written by hand, `recu_jax.ops.packed.conv_thresholds`.

Before the turns, the worker of each packed side compares all outputs with those of the variables before `pack`. Unequal
bits end the benchmark. `folded` only records its largest difference. Needs Linux.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import recu_jax
from experiments.benchmarks.inference import seconds_of
from experiments.benchmarks.turns import Worker, answers, others_busy, spread, when_and_where
from recu_jax.deploy import fold
from recu_jax.ops import packed as ops
from recu_jax.ops.geometry import Geometry
from recu_jax.ops.packing import pack_kernel

SECONDS = 0.3  # length of a turn
SIDES = {"resnet18": ("float", "packed", "inside"), "vgg": ("float", "packed", "inside", "folded")}
SIZES = {"resnet18": 224, "vgg": 32}
# Features and strides of the binary convolutions.
VGG = ((128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


class Block(nn.Module):
    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x):
        y = self.norm()(self.conv(self.features, (3, 3), strides=self.stride)(x))
        if self.stride > 1:
            x = self.norm()(nn.Conv(self.features, (1, 1), strides=self.stride, use_bias=False)(x))
        x = nn.hard_tanh(x + y)
        return nn.hard_tanh(x + self.norm()(self.conv(self.features, (3, 3))(x)))


class ResNet18(nn.Module):
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        x = nn.Conv(64, (7, 7), strides=2, use_bias=False)(x)
        x = nn.max_pool(nn.hard_tanh(norm()(x)), (3, 3), (2, 2), "SAME")
        for stage, features in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage and not block else 1
                x = Block(features, stride, functools.partial(self.conv, use_bias=False), norm)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class Vgg(nn.Module):
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        x = nn.hard_tanh(norm()(nn.Conv(128, (3, 3), use_bias=False)(x)))
        for features, stride in VGG:
            x = self.conv(features, (3, 3), strides=stride, padding=1, use_bias=False)(x)
            x = nn.hard_tanh(norm()(x))
        return nn.Dense(10)(x.mean((1, 2)))


MODELS = {"resnet18": ResNet18, "vgg": Vgg}


def image(model: str) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (1, SIZES[model], SIZES[model], 3))


def initial(model, x):
    """Returns variables with random statistics of batch norms, as training leaves them."""
    variables = jax.jit(model.init)(jax.random.key(1), x)

    def random(path, leaf):
        of = {"mean": (-0.3, 0.3), "var": (0.5, 2.0), "bias": (-0.5, 0.5)}.get(path[-1].key)
        if not of:
            return leaf
        seed = np.frombuffer(jax.tree_util.keystr(path).encode(), np.uint8)
        return jnp.asarray(np.random.default_rng(seed).uniform(*of, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(random, variables)


def folded_vgg(variables, x):
    """Returns a function of an image that computes a `Vgg` with thresholds, and packs signs only once."""
    norms = [
        fold.norm_rows(*(variables[collection][f"BatchNorm_{i}"][name] for collection, name in _NORM))
        for i in range(len(VGG) + 1)
    ]
    weights = recu_jax.one_bit_weights(Vgg(recu_jax.BinaryConv), variables, x)
    backend, size, channels = recu_jax.ops.native.cpu_backend(), SIZES["vgg"], 128
    layers = []
    for (signs, alpha), norm, (features, stride) in zip(weights.values(), norms[1:], VGG, strict=True):
        geometry = Geometry.create(1, (size, size), (3, 3), channels, features, stride, 1)
        kernel = ops.arrange_kernel(pack_kernel(np.asarray(signs)), channels, 1, backend)
        thresholds = fold.thresholds(np.asarray(alpha), norm, 9 * channels)
        layers.append((kernel, geometry, thresholds, np.stack([alpha, *norm])))
        size, channels = size // stride, features
    params = variables["params"]

    def run(x):
        first = nn.Conv(128, (3, 3), use_bias=False).apply({"params": params["Conv_0"]}, x)
        words = ops.pack(ops.batch_norm(first, jnp.asarray(norms[0])), backend=backend)
        for kernel, geometry, thresholds, _ in layers[:-1]:
            words = ops.conv_thresholds(words, kernel, geometry, jnp.asarray(thresholds))
        kernel, geometry, _, affine = layers[-1]
        y, _ = ops.conv_affine(words, kernel, geometry, jnp.asarray(affine), None, clamp=True)
        return nn.Dense(10).apply({"params": params["Dense_0"]}, y.mean((1, 2)))

    return run


_NORM = (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))


def prepare(side, name):
    """Returns a function that computes the outputs of a side, and what the worker says about them."""
    x = image(name)
    model = MODELS[name](nn.Conv if side == "float" else recu_jax.BinaryConv)
    variables = initial(model, x)
    apply = jax.jit(model.apply)
    if side == "float":
        return lambda: apply(variables, x), {}
    packed = jax.device_put(recu_jax.pack(model, variables, x))
    if side == "packed":
        expected = apply(variables, x)
        run = functools.partial(apply, packed, x)
    else:
        expected = jax.jit(lambda x: model.apply(variables, x))(x)
        program = folded_vgg(variables, x) if side == "folded" else functools.partial(model.apply, packed)
        run = functools.partial(jax.jit(program), x)
    difference = float(abs(run() - expected).max())
    if side != "folded" and difference:
        raise SystemExit(f"{side}: outputs differ by {difference} from those of the variables before recu_jax.pack")
    sizes = {"bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(packed))}
    sizes |= {"bytes_before": sum(leaf.nbytes for leaf in jax.tree.leaves(variables))}
    return run, {"largest_difference": difference, **sizes}


def work(side, name):
    """Serves one side: answers each line of stdin with the seconds of a turn."""
    answer = answers()
    run, said = prepare(side, name)
    versions = {"jax": jax.__version__, "kernels": recu_jax.ops.native.cpu_backend()}
    answer(python=platform.python_version(), **versions, said=said)
    for _ in sys.stdin:
        seconds, _, share = others_busy(lambda: seconds_of(lambda: run().block_until_ready(), SECONDS))
        answer(seconds=seconds, share_of_others=share)


def record(name, workers, turns):
    """Returns the record: medians of the sides, and median, minimum and maximum of the ratios of all rounds."""
    versions = dict(workers[0].versions)
    versions.pop("said")
    seconds = {side: [turn["seconds"] for turn in of] for side, of in turns.items()}
    times = {
        f"{slow} / {fast}": [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
        for slow, fast in (("float", "packed"), ("float", "inside"), ("packed", "inside"), ("inside", "folded"))
        if fast in seconds
    }
    return {
        "model": name,
        **when_and_where(),
        "versions": versions,
        "outputs": {worker.side: worker.versions["said"] for worker in workers if worker.versions["said"]},
        "median_milliseconds": {side: 1000 * statistics.median(of) for side, of in seconds.items()},
        "times": {pair: spread(of) for pair, of in times.items()},
        "largest_share_of_others": max(turn["share_of_others"] for of in turns.values() for turn in of),
        "seconds_of_turns": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIDES, default="resnet18")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side")
    parser.add_argument("--core", type=int, default=0, help="the core that runs all sides")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    # JAX starts XLA later, with these flags and on this core. The workers inherit both.
    recu_jax.set_xla_flags()
    os.sched_setaffinity(0, {args.core})
    if args.worker:
        work(args.worker, args.model)
        return
    workers = [
        Worker(side, sys.executable, __file__, f"--model={args.model}", f"--core={args.core}")
        for side in SIDES[args.model]
    ]
    turns = {worker.side: [] for worker in workers}
    for worker in workers:
        _ = worker.versions  # All workers have compiled before the first turn.
    for _ in range(args.repeats):
        for worker in workers:
            turns[worker.side].append(worker.turn(""))
    for worker in workers:
        worker.close()
    result = record(args.model, workers, turns)
    for side, milliseconds in result["median_milliseconds"].items():
        print(f"{side:<8} {milliseconds:8.3f} ms")
    for pair, of in result["times"].items():
        print(f"{pair:<16} {of['median']:.2f} times ({of['min']:.2f} to {of['max']:.2f})")
    print(f"other processes took up to {result['largest_share_of_others']:.0%} of the processors")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
