"""Compiles the trainer's steps for GPUs and TPUs on a machine that has none, and records what the programs need.

    pip install libtpu 'jax[cuda13]'
    python experiments/benchmarks/compile_only.py --targets=h100,v5e --models=cifar_resnet20 --dtypes=bfloat16
    python experiments/benchmarks/compile_only.py --list

Nothing runs on a device, so nothing here is a measured speed. Memory is what the compiled program asks for. The bound
is the most images a second that the device's published bandwidth and peak allow for the bytes and operations of the
program, if every byte comes from memory and none from a cache. Real steps are slower, above all steps of hundreds of
small kernels.

Each row of the results describes a training step of `recu train`, with augmentation, or a step of its evaluation. The
step takes a batch of uint8 images that is already on the devices. A run on CIFAR keeps the whole data set on each
device, which takes another 0.15 GB. Batch sizes are those of all devices together. Each row is compiled in a process of
its own and written to a file in experiments/results/compile_only. A row that has a file is compiled again only with
--again.
"""

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks.compile_targets import TARGETS
from experiments.benchmarks.counted import analysis, without_kernels
from experiments.benchmarks.steps import KINDS, image_size
from experiments.benchmarks.turns import when_and_where

# Models and the configs that train them. The train step of a react model is that of stage 2, with a teacher.
MODELS = {
    "cifar_resnet20": "cifar10",
    "cifar_resnet18": "cifar10",
    "cifar_vgg_small": "cifar10",
    "imagenet_resnet18": "imagenet",
    "imagenet_resnet34": "imagenet",
    "react_resnet18": "imagenet_two_stage:stage2",
    "react_resnet34": "imagenet_two_stage:stage2",
}
DTYPES = ("bfloat16", "float32")
OUT = Path(__file__).resolve().parents[1] / "results" / "compile_only"


def batches_of(model):
    """Returns the global batch sizes to compile: the config's, and for ImageNet also 4096, a size for many chips."""
    from recu_jax.config import load

    return (load(MODELS[model]).batch_size, *((4096,) if image_size(model) == 224 else ()))


def jitted(model, dtype, kind, batch, devices):
    """Returns the trainer's jitted step on `devices`, and the shapes of its arguments. `batch` is per device."""
    import jax
    import numpy as np

    from experiments.benchmarks.steps import random_dataset
    from recu_jax.config import load
    from recu_jax.training import step
    from recu_jax.training.recipe import make_recipe

    config, size = load(MODELS[model], model=model, dtype=dtype, batch_size=batch * len(devices)), image_size(model)
    if "two_stage" in MODELS[model] and kind == "train":
        config.teacher = "its variables are arguments of the step"
    recipe = make_recipe(config, random_dataset(model, 8), steps_per_epoch=200)
    state, teacher = step.state_shapes(recipe, (size, size, 3)), {}
    if recipe.teacher is not None:
        teacher = jax.eval_shape(recipe.teacher.init, jax.random.key(0), np.zeros((1, size, size, 3), np.float32))

    def array(shape, dtype):
        return jax.ShapeDtypeStruct((len(devices), batch, *shape), dtype)

    data = (array((size, size, 3), np.uint8), array((), np.int32))
    function, arguments = {
        "train": (step.train_streamed, (state, teacher, *data)),
        "eval": (step.eval_streamed, (state, *data, array((), np.float32))),
    }[kind]
    mapped = [isinstance(argument, jax.ShapeDtypeStruct) for argument in arguments]
    function = functools.partial(function, recipe=recipe)
    parallel = step.parallel if len({d.process_index for d in devices}) == 1 else over_processes
    return parallel(function, devices, mapped, donate=kind == "train"), arguments


def over_processes(function, devices, mapped, donate):
    """Does what `step.parallel` does, for devices of several processes.

    `step.parallel` calls `jax.pmap`, which maps over the devices of this process only, unless all processes call it.
    """
    import jax
    from jax.sharding import Mesh, PartitionSpec

    from recu_jax.training.step import AXIS

    def of_one_device(*arguments):
        # Removes the device axis, as `jax.pmap` does. `shard_map` keeps this axis, with size 1.
        return function(*(a[0] if m else a for a, m in zip(arguments, mapped, strict=True)))

    specs = tuple(PartitionSpec(AXIS) if m else PartitionSpec() for m in mapped)
    mesh = Mesh(devices, (AXIS,))
    run = jax.shard_map(of_one_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return jax.jit(run, donate_argnums=(0,) if donate else ())


def operations(model, dtype, kind, batch):
    """Returns the operations of a step on one device, as XLA counts them before it optimizes the program."""
    import jax

    with without_kernels():
        step, arguments = jitted(model, dtype, kind, batch, jax.devices("cpu")[:1])
        return float(analysis(step.lower(*arguments))["flops"])


def compiled_row(target, model, dtype, kind, batch):
    """Compiles one step. Returns its row and the text of the compiled program."""
    from jax.experimental import topologies

    from experiments.benchmarks.compiled_program import Program
    from experiments.benchmarks.live_arrays import live_at_peak

    if target.platform == "tpu":
        devices = topologies.get_topology_desc(target.topology, platform="tpu").devices[: target.devices]
    else:
        options = {"target_config": target.description, "topology": f"1x1x{target.devices}"}
        devices = topologies.get_topology_desc(platform="cuda", **options).devices
    share = batch // target.devices
    step, arguments = jitted(model, dtype, kind, share, devices)
    lowered = step.lower(*arguments)
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    memory, program = compiled.memory_analysis(), Program(compiled.as_text())
    done = operations(model, dtype, kind, share)
    moved = program.bytes_moved()
    by_bytes, by_operations = moved / target.bandwidth, done / target.peaks[dtype]
    collectives = program.collectives()
    # In a ring all-reduce, each of n devices sends (n - 1) / n of the bytes twice: to add them, then to share the sums.
    reduced = collectives.get("all-reduce", {}).get("bytes", 0)
    by_links = 2 * reduced * (1 - 1 / target.devices) / target.links if target.links else 0.0
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    row = {
        "target": target.name, "device": devices[0].device_kind, "devices": target.devices, "model": model,
        "kind": kind, "dtype": dtype, "batch": batch, "compile_seconds": round(seconds, 1),
        "memory": {
            "arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes,
            "aliased": memory.alias_size_in_bytes, "needed": needed - memory.alias_size_in_bytes,
            "of_device": target.memory,
        },
        "operations": done, "bytes": moved,
        "kernels": len(program.kernels()) if target.platform == "cuda" else None,
        # Not for TPUs: it would count arrays that lie beside the compute units.
        "at_peak": dict(live_at_peak(program).most_common(8)) if target.platform == "cuda" else None,
        "collectives": collectives, "convolutions": program.convolutions(),
        "dtypes": program.dtypes(), "host_transfers": program.transfers(),
        "bound": {
            "images_per_second": round(batch / max(by_bytes, by_operations)),
            "binds": "memory" if by_bytes > by_operations else "products",
            "milliseconds_of_bytes": round(1000 * by_bytes, 3),
            "milliseconds_of_operations": round(1000 * by_operations, 3),
            "milliseconds_of_all_reduces": round(1000 * by_links, 3),
        },
        **when_and_where(),
        "versions": versions(target.platform),
    }  # fmt: skip
    return row, compiled.as_text()


def versions(of_platform):
    """Returns the versions of Python, JAX and the compiler of the platform."""
    names = ["jax", "jaxlib", "flax", "libtpu" if of_platform == "tpu" else "jax-cuda13-plugin"]
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def environment(target):
    """Returns the environment of a process that compiles: JAX uses the CPU, and libtpu queries no TPU VM's metadata."""
    tpu = {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    return {**os.environ, "JAX_PLATFORMS": "cpu", **(tpu if target.platform == "tpu" else {})}


def row_name(target, model, dtype, kind, batch):
    """Returns the name of a row's file, without its ending."""
    return f"{target}_{model}_{dtype}_{kind}_{batch}"


def in_words(row):
    """Formats a row as one line."""
    memory, bound = row["memory"], row["bound"]
    kernels = "" if row["kernels"] is None else f"{row['kernels']} kernels, "
    return (
        f"{row['target']} {row['model']} {row['dtype']} {row['kind']} {row['batch']}: compiled in "
        f"{row['compile_seconds']:.0f} s, {memory['needed'] / 2**30:.2f} of {memory['of_device'] / 2**30:.0f} GiB, "
        f"{kernels}bound {bound['images_per_second']:,} images/s by {bound['binds']}"
    )


def listed(known):
    """Returns a parser of names that are separated by commas. `all` means all known names."""

    def parse(text):
        names = list(known) if text == "all" else text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of: {', '.join(known)}")
        return names

    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=listed(TARGETS), default=["h100", "v5e"], metavar="NAME,NAME")
    parser.add_argument("--models", type=listed(MODELS), default=list(MODELS), metavar="NAME,NAME")
    parser.add_argument("--dtypes", type=listed(DTYPES), default=list(DTYPES), metavar="NAME,NAME")
    parser.add_argument("--kinds", type=listed(KINDS), default=list(KINDS), metavar="train,eval")
    parser.add_argument("--batch", type=int, metavar="N", help="of all devices; default: that of each model's config")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    parser.add_argument("--programs", type=Path, metavar="FOLDER", help="also write the compiled programs there")
    parser.add_argument("--again", action="store_true", help="also compile rows that have a file")
    parser.add_argument("--list", action="store_true", help="print the names of targets and models")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the process compiles one row
    arguments = parser.parse_args()
    if arguments.list:
        print("targets:", *TARGETS, "\nmodels:", *MODELS)
        return 0
    targets = [TARGETS[name] for name in arguments.targets]
    failed = 0
    for target, model, dtype, kind in itertools.product(targets, arguments.models, arguments.dtypes, arguments.kinds):
        for batch in [arguments.batch] if arguments.batch else batches_of(model):
            if batch % target.devices == 0:
                failed += not one_row(arguments, target, model, dtype, kind, batch)
    return 1 if failed else 0


def one_row(arguments, target, model, dtype, kind, batch):
    """Compiles a row and writes its file. Returns whether the row has a file now.

    With `--here`, this process compiles the row. Without `--here`, it starts this script again with `--here`, unless
    the row has a file and `--again` is not given.
    """
    name = row_name(target.name, model, dtype, kind, batch)
    if arguments.here:
        row, text = compiled_row(target, model, dtype, kind, batch)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")
        if arguments.programs:
            arguments.programs.mkdir(parents=True, exist_ok=True)
            (arguments.programs / f"{name}.txt").write_text(text)
        print(in_words(row), flush=True)
        return True
    if (arguments.out / f"{name}.json").exists() and not arguments.again:
        return True
    command = [
        sys.executable, __file__, "--here", f"--targets={target.name}", f"--models={model}", f"--dtypes={dtype}",
        f"--kinds={kind}", f"--batch={batch}", f"--out={arguments.out}",
        *([f"--programs={arguments.programs}"] if arguments.programs else []),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment(target), stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
        print(f"{name}: {(said or ['no message'])[-1][:300]}", file=sys.stderr, flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
