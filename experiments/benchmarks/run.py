"""Measures the speed and memory of recu_jax on the CPU. Prints a table, and writes a JSON file with `--out`.

Most rows are ratios to a peer that is measured in the same run.

    python experiments/benchmarks/run.py --torch_python=TORCH/bin/python --data_dir=$HOME/tensorflow_datasets \\
        --out=experiments/results/benchmarks/cpu.json [train eval memory import first_step input_pipeline]

- train, eval: a step of each model, float32, images a second. There are two peers, both a straightforward PyTorch
  version (`torch_recu.py`). One uses `torch.compile`, in the faster of two layouts. The other does not. Each row also
  has two shares of the machine's ceiling. The first is the operations per second of the step, divided by those of a
  large matrix product; 1-bit operations count as float operations. The second is the bytes per second that the program
  moves, divided by those of a large copy.
- memory: the peak memory of a `cifar_resnet20` train step, divided by PyTorch's without `torch.compile`. Each peak is
  counted from what the process held before it built the model.
- import: a process that imports recu_jax against one that imports flax.linen.
- first_step: seconds from a process's start to its first step on the digits, with an empty and with a filled
  compilation cache.
- input_pipeline: photographs a second with two workers against one, and against the same pipeline in Pillow; growth of
  memory over 20,000 images.

Seconds on a shared machine drift by tens of percent within minutes. So each side runs in an interpreter of its own. All
sides are prepared and warmed up first. Then they take turns: while one runs, the others wait. Each round of turns gives
one ratio. The median, the minimum and the maximum of the ratios are reported.

`--torch_python` names an interpreter with PyTorch. Needs Linux. All rows are measured on the CPU;
`experiments/gpu_session.py` measures on a GPU.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks import startup, steps
from experiments.benchmarks.turns import Worker, environment, spread, when_and_where

GROUPS = (*steps.KINDS, "memory", "import", "first_step", "input_pipeline")
# The least values that rows must reach. `AT_MOST` has the largest values that other rows may have.
BARS = {
    "train cifar_resnet20": 2.0,
    "train cifar_resnet18": 1.8,
    "train cifar_vgg_small": 1.8,
    "train imagenet_resnet18": 1.5,
    **{f"eval {model}": 2.0 for model in steps.BATCH_SIZES},
    "input_pipeline 2 workers / 1": 1.7,
}
AT_MOST = {
    "memory cifar_resnet20": 1.0,
    **{f"import: {statement}": 1.3 for statement in startup.IMPORTS},
    "first_step cold": 15,
    "first_step warm": 6,
    "input_pipeline growth over 20,000 images, MB": 50,
}
# OpenMP threads keep spinning after their last loop, 0.2 s in some runtimes; let them fall asleep before the other
# side's clock starts.
SETTLE_SECONDS = 0.3
# A busy machine does not slow all sides alike. Beside another load on 2 cores, PyTorch took 2 to 4 times as long,
# because its threads wait for each other after every operation. jax took 1.8 times as long. So the table marks a row
# in whose turns other processes took more than this share of the CPUs.
MAX_SHARE_OF_OTHERS = 0.05
# By name of a side, its `--worker` in `steps.py` and further options.
SIDES = {
    "jax": ("jax", []),
    "eager": ("torch", []),
    "compiled": ("torch", ["--compiled=default"]),
    "compiled, channels last": ("torch", ["--compiled=default", "--channels_last"]),
}
COMPILED = ("compiled", "compiled, channels last")


def without_avx512():
    """Returns environment variables with which XLA, PyTorch, oneDNN and MKL do without AVX-512.

    `steps.py` tells TorchInductor.
    """
    return {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip(),
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }


class Bench:
    """Measures the rows of the table, prints each row when it is done, and keeps all rows for the JSON file."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.rows, self.versions, self.counted = {}, {}, {}

    def add(self, name, value, unit, others=0.0, **more):
        """Adds a row and prints it.

        The median of `value`, a result of `spread`, is compared with the row's bar. `others` is the largest share of
        the CPUs that other processes took in a turn.
        """
        row = {"value": value, "unit": unit, "share_of_others": others, **more}
        if name in BARS:
            row |= {"bar": f">= {BARS[name]}", "reached": value["median"] >= BARS[name]}
        elif name in AT_MOST:
            row |= {"bar": f"<= {AT_MOST[name]}", "reached": value["median"] <= AT_MOST[name]}
        self.rows[name] = row
        print_row(name, row)
        if self.arguments.out:  # so that a run that is stopped keeps its rows
            self.write(self.arguments.out)

    @contextlib.contextmanager
    def sides(self, model, names, *options):
        """Yields the workers of the named sides, started one after the other."""
        pythons = {"jax": sys.executable, "torch": self.arguments.torch_python}
        of_all = [f"--instructions={self.arguments.instructions}"] if self.arguments.instructions else []
        with contextlib.ExitStack() as stack:
            workers = {}
            for side in names:
                kind, own = SIDES[side]
                script = Path(__file__).with_name("steps.py")
                workers[side] = Worker(kind, pythons[kind], script, f"--model={model}", *own, *of_all, *options)
                stack.callback(workers[side].close)
                self.versions[side] = workers[side].versions
            yield workers

    def turns(self, workers, kind, count):
        for worker in workers.values():  # warms up: the first step compiles, the second fills caches
            worker.turn(f"{kind} 1")
            worker.turn(f"{kind} 1")
        turns = {side: [] for side in workers}
        for _ in range(self.arguments.repeats):
            for side, worker in workers.items():
                time.sleep(SETTLE_SECONDS)
                turns[side].append(worker.turn(f"{kind} {count}"))
        return turns

    def steps(self, kinds):
        for model in self.arguments.models:
            batch = steps.BATCH_SIZES[model]
            counted = self.count(model)
            with self.sides(model, SIDES) as workers:
                for kind in kinds:
                    turns = self.turns(workers, kind, self.arguments.steps)
                    seconds = {side: [t["seconds_per_step"] for t in turns[side]] for side in turns}
                    faster = min(COMPILED, key=lambda side: statistics.median(seconds[side]))
                    ratios = {
                        side: spread([b / a for a, b in zip(seconds["jax"], seconds[side], strict=True)])
                        for side in ("eager", *COMPILED)
                    }
                    median = statistics.median(seconds["jax"])
                    ceiling = self.counted["ceiling"]
                    self.add(
                        f"{kind} {model}",
                        ratios[faster],
                        "torch.compile",
                        max(t["share_of_others"] for side in turns for t in turns[side]),
                        batch=batch,
                        steps_per_turn=self.arguments.steps,
                        times_faster_than=ratios,
                        seconds={side: spread(values) for side, values in seconds.items()},
                        images_per_second={side: batch / statistics.median(v) for side, v in seconds.items()},
                        page_faults_per_step=statistics.median(t["page_faults_per_step"] for t in turns["jax"]),
                        **counted[kind],
                        share_of_operations=counted[kind]["operations"] / median / ceiling["operations_per_second"],
                        share_of_bytes=counted[kind]["bytes"] / median / ceiling["bytes_per_second"],
                    )

    def count(self, model):
        script = Path(__file__).with_name("counted.py")
        env = environment(JAX_PLATFORMS="cpu")
        done = subprocess.run([sys.executable, script, model], env=env, capture_output=True, text=True, check=True)
        counted = json.loads(done.stdout)
        self.counted.setdefault("ceiling", counted["ceiling"])
        return counted["models"][model]

    def memory(self):
        with self.sides("cifar_resnet20", ("jax", "eager"), "--one_batch") as workers:
            turns = self.turns(workers, "train", 1)
        peaks = {side: [t["peak_bytes"] for t in turns[side]] for side in turns}
        ratios = [a / b for a, b in zip(peaks["jax"], peaks["eager"], strict=True)]
        self.add("memory cifar_resnet20", spread(ratios), "of PyTorch's", peak_bytes={s: max(peaks[s]) for s in peaks})

    def imports(self):
        statements = (startup.PEER, *startup.IMPORTS)
        seconds = {statement: [] for statement in statements}
        for statement in statements:  # warms up: reads the files from the disk
            startup.import_seconds(statement)
        for _ in range(self.arguments.repeats):
            for statement in statements:
                seconds[statement].append(startup.import_seconds(statement))
        for statement in startup.IMPORTS:
            ratios = [a / b for a, b in zip(seconds[statement], seconds[startup.PEER], strict=True)]
            medians = {s: statistics.median(seconds[s]) for s in (statement, startup.PEER)}
            self.add(f"import: {statement}", spread(ratios), "of flax.linen's", seconds=medians)
        heavy = startup.heavy_imports()
        if heavy:
            raise SystemExit(f"recu_jax.main imports {', '.join(heavy)} before it is needed")

    def first_step(self):
        found = [startup.first_steps() for _ in range(3)]
        for name in ("cold", "warm"):
            self.add(f"first_step {name}", spread([f[name] for f in found]), "s")

    def input_pipeline(self):
        from experiments.benchmarks import input_pipeline

        measured = input_pipeline.measure(input_pipeline.parse_arguments(["--data_dir", self.arguments.data_dir]))
        others = measured["largest_share_of_others"]
        self.add("input_pipeline 2 workers / 1", measured["two_workers_to_one"], "times", others)
        self.add(
            "input_pipeline / Pillow", measured["throughput_recu_jax_to_pillow"], "times Pillow", others,
            images_per_second=measured["images_per_second"],
        )  # fmt: skip
        growth = measured["growth_over_20000_images_bytes"] / 1e6
        self.add("input_pipeline growth over 20,000 images, MB", spread([growth]), "MB")

    def write(self, path):
        result = {
            **when_and_where(),
            "versions": self.versions,
            "ceiling": self.counted.get("ceiling"),
            "rows": self.rows,
        }
        path.write_text(json.dumps(result, indent=1) + "\n")

    def run(self, groups):
        kinds = [kind for kind in steps.KINDS if kind in groups]
        if kinds:
            self.steps(kinds)
        for group, function in {
            "memory": self.memory,
            "import": self.imports,
            "first_step": self.first_step,
            "input_pipeline": self.input_pipeline,
        }.items():
            if group in groups:
                function()


def print_row(name, row):
    value, bar = row["value"], row.get("bar", "")
    shares = [f"{row[key]:.0%}" if key in row else "" for key in ("share_of_operations", "share_of_bytes")]
    verdict = {True: "", False: "  MISSED"}[row.get("reached", True)]
    busy = f"  others took {row['share_of_others']:.0%}" if row["share_of_others"] > MAX_SHARE_OF_OTHERS else ""
    print(
        f"{name:<58} {value['median']:>7.2f} {value['min']:>7.2f} {value['max']:>7.2f}  {row['unit']:<15} {bar:<8} "
        f"{shares[0]:>5} {shares[1]:>5}{verdict}{busy}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all of them by default")
    parser.add_argument("--torch_python", default=sys.executable, metavar="PATH")
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS's folder with imagenet2012, for input_pipeline")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    parser.add_argument("--steps", type=int, default=4, help="steps in one turn")
    parser.add_argument("--models", nargs="+", choices=steps.BATCH_SIZES, default=list(steps.BATCH_SIZES))
    parser.add_argument(
        "--instructions", metavar="SET",
        help="avx2: all sides do without AVX-512; portable: recu_jax's kernels in plain C++; the fastest by default",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    for group in arguments.groups:
        if group not in GROUPS:
            parser.error(f"{group!r} is no group of rows; there are {', '.join(GROUPS)}")
    groups = arguments.groups or [g for g in GROUPS if g != "input_pipeline" or arguments.data_dir]
    if "input_pipeline" in groups and not arguments.data_dir:
        parser.error("input_pipeline needs --data_dir")
    head = ("", "median", "min", "max", "", "bar", "ops", "bytes")
    print("{:<58} {:>7} {:>7} {:>7}  {:<15} {:<8} {:>5} {:>5}".format(*head))
    if arguments.instructions == "avx2":
        os.environ |= without_avx512()  # for the processes of the sides
    bench = Bench(arguments)
    bench.run(groups)


if __name__ == "__main__":
    main()
