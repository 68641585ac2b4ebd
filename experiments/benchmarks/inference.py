"""Times 1-bit inference against float32 inference of the same shape in XLA and PyTorch, for one image on one thread.

    python experiments/benchmarks/inference.py --torch_python=$HOME/torch-env/bin/python --out=inference.json

The cases are 3x3 binary layers of 64 to 512 channels at ResNet-18's sizes, and whole networks:

- `layer` computes what a layer does in a network. It takes packed signs, and applies the convolution, alpha and batch
  norm. It returns the real results and their packed signs.
- `sums_layer` returns the integer sums of the convolution alone.
- `real_layer` packs the signs of real activations, and then does what `layer` does.
- A network computes logits from uint8 pixels; in PyTorch from float32 noise.

A layer is compared with the bare float32 convolution, and a network with its twin of real weights and activations.

The sides are `recu`, `recu2`, `xla` and `torch`. Each is a process of its own. `recu2` runs the same programs as
`recu`. It is pinned to two cores, and every other side to one. The sides take turns. For each case, every round of
turns gives the ratios of their seconds: xla / recu, torch / recu and recu / recu2. Needs Linux and g++, which builds
two programs. `popcount_bound.cc` measures the most that xor, popcount and add can reach on this processor.
`core_distance.cc` measures, after each round, how long a store of one core takes to reach another core.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks.turns import Worker, answers, others_busy, spread, when_and_where

LAYERS = {64: 56, 128: 28, 256: 14, 512: 7}
NETWORKS = {"imagenet_resnet18": 224, "cifar_vgg_small": 32}
# Number of cores of each side.
SIDES = {"recu": 1, "recu2": 2, "xla": 1, "torch": 1}
KINDS = ("layer", "sums_layer", "real_layer")
CASES = [f"{kind}_{channels}" for kind in KINDS for channels in LAYERS] + list(NETWORKS)
SECONDS = 0.1  # length of a turn


def seconds_of(run, least=0.02):
    """Calls `run` for at least `least` seconds and at least five times. Returns the seconds of the fastest call."""
    times, end = [], time.perf_counter() + least
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


# Each `prepare_*` runs in the process of a side. It returns versions, and a dict from each case to a function that runs
# the case.


def prepare_torch(cores):
    import torch

    from experiments.benchmarks import torch_float

    torch.manual_seed(0)
    torch.set_num_threads(cores)
    runs = {}
    for channels, size in LAYERS.items():
        run = torch_float.fastest(torch_float.layer(channels), size, channels, seconds_of)
        runs |= {f"{kind}_{channels}": run for kind in KINDS}
    for name, (make, size) in torch_float.MODELS.items():
        runs[name] = torch_float.fastest(make(), size, 3, seconds_of)
    return {"torch": torch.__version__}, runs


def _prepare_jax():
    from recu_jax import set_xla_flags

    set_xla_flags()
    import jax
    import jaxlib

    return jax, {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def _timed(jax, function, *args):
    compiled = jax.jit(function)
    args = jax.device_put(args)
    return lambda: jax.block_until_ready(compiled(*args))


def prepare_xla(cores):
    jax, versions = _prepare_jax()
    import numpy as np

    from recu_jax import create_model, layers
    from recu_jax.data.augment import normalize

    runs, r = {}, np.random.default_rng(0)
    for channels, size in LAYERS.items():
        x = r.standard_normal((1, size, size, channels), np.float32)
        kernel = r.standard_normal((3, 3, channels, channels), np.float32)

        def convolve(x, kernel):
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        run = _timed(jax, convolve, x, kernel)
        runs |= {f"{kind}_{channels}": run for kind in KINDS}
    for name, size in NETWORKS.items():
        twin = create_model(name, _classes(name), conv=layers.Conv)
        variables = jax.jit(twin.init)(jax.random.key(0), np.zeros((1, size, size, 3), np.float32))

        def predict(variables, images, twin=twin):
            return twin.apply(variables, normalize(images, *_statistics()))

        runs[name] = _timed(jax, predict, variables, _image(r, size))
    return versions, runs


def prepare_recu(cores):
    jax, versions = _prepare_jax()
    import numpy as np

    from recu_jax import create_model
    from recu_jax.deploy import build, families, model
    from recu_jax.ops import native, packed
    from recu_jax.ops.geometry import Geometry

    runs, r, backend = {}, np.random.default_rng(0), native.cpu_backend()
    for channels, size in LAYERS.items():
        kernel = packed.pack_kernel(r.standard_normal((3, 3, channels, channels)))
        kernel = packed.arrange_kernel(kernel, channels, 1, backend)
        geometry = Geometry.create(1, (size, size), (3, 3), channels, channels, 1, 1)
        x = r.standard_normal((1, size, size, channels), np.float32)
        affine = r.standard_normal((4, channels), np.float32)

        def layer(words, kernel, affine, geometry=geometry):
            return packed.conv_affine(words, kernel, geometry, affine, None, clamp=False)

        def real_layer(x, kernel, affine, layer=layer):
            return layer(packed.pack(x), kernel, affine)

        def sums_layer(words, kernel, geometry=geometry):
            return packed.conv_sums(words, kernel, geometry)

        words = packed.pack(x)
        runs[f"layer_{channels}"] = _timed(jax, layer, words, kernel, affine)
        runs[f"real_layer_{channels}"] = _timed(jax, real_layer, x, kernel, affine)
        runs[f"sums_layer_{channels}"] = _timed(jax, sums_layer, words, kernel)
    for name, size in NETWORKS.items():
        net = create_model(name, _classes(name))
        variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, size, size, 3), np.float32))
        entries, arrays = families.operations(name, variables, build.BlockParts(), (size, size, 3), *_statistics())
        loaded = model.parse({"format": model.FORMAT, "model": name, "operations": entries}, arrays)
        image = jax.device_put(_image(r, size))
        runs[name] = lambda loaded=loaded, image=image: jax.block_until_ready(loaded.predict(image))
    return {**versions, "kernels": backend}, runs


def _classes(name):
    return 1000 if name.startswith("imagenet") else 10


def _statistics():
    from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD

    return IMAGENET_MEAN, IMAGENET_STD


def _image(r, size):
    return r.integers(0, 256, (1, size, size, 3), "uint8")


def work(side, cores):
    """Serves one side: reads names of cases from stdin, and answers each with a JSON line that has the seconds."""
    warnings.simplefilter("ignore")
    answer = answers()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    versions, runs = {"torch": prepare_torch, "xla": prepare_xla}.get(side, prepare_recu)(cores)
    for run in runs.values():
        run()
    answer(python=platform.python_version(), **versions)
    for line in sys.stdin:
        seconds, _, share = others_busy(lambda line=line: seconds_of(runs[line.strip()], SECONDS))
        answer(seconds=seconds, share_of_others=share)


def built(name, folder):
    """Compiles `<name>.cc` to `folder`. Returns a function that runs the program and returns the lines it prints."""
    program = pathlib.Path(folder) / name
    source = pathlib.Path(__file__).with_name(f"{name}.cc")
    subprocess.run(["g++", "-O2", "-pthread", str(source), "-o", str(program)], check=True)
    return lambda: subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def popcount_bounds(folder):
    """Measures the 64-bit words a second of xor, popcount and add on one core, by instruction set."""
    return {name: float(words) for name, words in map(str.split, built("popcount_bound", folder)())}


def take_turns(workers, turns):
    """For each case, lets each side run once, one after the other, and appends the results to `turns`."""
    for case in CASES:
        for worker in workers:
            turns[case][worker.side].append(worker.turn(case))


def summarize(case, turns, bound):
    """Returns the medians of the sides, and median, minimum and maximum of the ratios of all rounds."""
    seconds = {side: [turn["seconds"] for turn in turns[side]] for side in turns}
    result = {"median_seconds": {side: statistics.median(values) for side, values in seconds.items()}}
    for name, (a, b) in {"xla": ("xla", "recu"), "torch": ("torch", "recu"), "two_threads": ("recu", "recu2")}.items():
        result[f"times_{name}"] = spread([x / y for x, y in zip(seconds[a], seconds[b], strict=True)])
    if "layer" in case and bound:
        channels = int(case.rsplit("_", 1)[1])
        words = LAYERS[channels] ** 2 * channels * 9 * channels / 64
        result["share_of_popcount_bound"] = words / bound / result["median_seconds"]["recu"]
    result["largest_share_of_others"] = max(turn["share_of_others"] for side in turns for turn in turns[side])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="turns of each side")
    parser.add_argument("--torch_python", default=sys.executable, metavar="PATH")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, SIDES[args.worker])
        return
    pythons = {side: args.torch_python if side == "torch" else sys.executable for side in SIDES}
    workers = [Worker(side, pythons[side], __file__) for side in SIDES]
    turns = {case: {side: [] for side in SIDES} for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        bounds, core_distance = popcount_bounds(folder), built("core_distance", folder)
        distances = []
        for _ in range(args.repeats):
            take_turns(workers, turns)
            distances += core_distance() if os.cpu_count() > 1 else []
    for worker in workers:
        worker.close()
    bound = bounds.get(workers[0].versions["kernels"])
    result = {
        **when_and_where(),
        "versions": {worker.side: worker.versions for worker in workers},
        "popcount_bound_words_per_second": bounds,
        "core_to_core_nanoseconds": [float(distance) for distance in distances],
        "cases": {case: summarize(case, turns[case], bound) for case in CASES},
    }
    print_table(result)
    if args.out:
        seconds = {case: {side: [t["seconds"] for t in turns[case][side]] for side in SIDES} for case in CASES}
        # Few people read the seconds of single turns, so these take one line only.
        text = json.dumps(result, indent=2).removesuffix("\n}")
        args.out.write_text(f'{text},\n  "seconds_of_turns": {json.dumps(seconds)}\n}}\n')


def print_table(result):
    print(f"{'case':<20} {'recu ms':>8} {'/XLA':>6} {'/torch':>6} {'2 thr':>6} {'bound':>6} {'others':>6}")
    for case, numbers in result["cases"].items():
        ratios = [numbers[f"times_{name}"]["median"] for name in ("xla", "torch", "two_threads")]
        share = numbers.get("share_of_popcount_bound")
        print(
            f"{case:<20} {1e3 * numbers['median_seconds']['recu']:>8.3f} {ratios[0]:>6.1f} {ratios[1]:>6.1f} "
            f"{ratios[2]:>6.2f} {'' if share is None else f'{share:.0%}':>6} "
            f"{numbers['largest_share_of_others']:>6.0%}"
        )
    if distances := result["core_to_core_nanoseconds"]:
        print(f"from core to core: {' '.join(f'{distance:.0f}' for distance in distances)} ns, round by round")


if __name__ == "__main__":
    main()
