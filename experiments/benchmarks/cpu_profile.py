"""Traces train steps on CPUs, and shows how long each kind of operation takes.

    python experiments/benchmarks/cpu_profile.py --model=cifar_resnet20 --out=FILE.json

It traces `--steps` steps of the trainer, on images of noise, after two that compile and fill caches. The record gives,
for a step: the milliseconds that it took, and for each kind of operation how often it ran and its milliseconds. A
compiled kernel of recu_jax is a kind of its own; the other operations are grouped by XLA's names without their numbers.
Operations that XLA runs at the same time are counted with their full times.
"""

import argparse
import collections
import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks import steps
from experiments.benchmarks.turns import when_and_where

_SHOWN = 15
_CALL = re.compile(r"%?(\S+) = .* custom-call\(.*custom_call_target=\"(recu_\w+)\"")


def kernels(folder):
    """Returns, by XLA's name of a call, the compiled kernel that it calls, from the programs that XLA dumped."""
    texts = (path.read_text() for path in Path(folder).glob("*after_optimizations.txt"))
    return {name: target for text in texts for name, target in _CALL.findall(text)}


def times(trace):
    """Returns the milliseconds of each event of an operation in a trace file (.xplane.pb), by its name."""
    from jax.profiler import ProfileData

    found = collections.defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of jax's own types
        for plane in ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if "hlo_op" in dict(event.stats):
                        found[event.name].append(event.duration_ns / 1e6)
    return found


def grouped(found, targets, count):
    """Returns a row for each kind of operation, the longest first: its times and milliseconds in a step."""
    kinds = collections.defaultdict(list)
    for name, spans in found.items():
        kinds[targets.get(name) or re.sub(r"[.\d]+$", "", name)] += spans
    rows = [{"kind": k, "times_a_step": len(v) / count, "milliseconds": sum(v) / count} for k, v in kinds.items()]
    return sorted(rows, key=lambda row: -row["milliseconds"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=steps.BATCH_SIZES, default="cifar_resnet20")
    parser.add_argument("--batch_size", type=int, metavar="N", help="default: that of run.py")
    parser.add_argument("--nonlinearity", help="of the blocks; that of the model by default")
    parser.add_argument("--instructions", metavar="SET", help="avx512, avx2 or portable; the fastest by default")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # XLA reads its flags when jax first uses a device.
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder} --xla_dump_hlo_as_text"
        os.environ |= {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
        record = measured(arguments, folder)
    for row in record["operations"][:_SHOWN]:
        print(f"{row['milliseconds']:8.1f} ms {row['times_a_step']:6.1f} x  {row['kind']}")
    print(f"{record['milliseconds_a_step']:8.1f} ms a step")
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def measured(arguments, folder):
    """Runs and traces the steps. Returns the record."""
    import jax

    from recu_jax.ops import native

    batch = arguments.batch_size or steps.BATCH_SIZES[arguments.model]
    case = steps.Case(
        arguments.model, batch, 4 * batch, instructions=arguments.instructions, nonlinearity=arguments.nonlinearity
    )
    state, by_kind = steps.jax_steps(case, steps.random_dataset(case.model, case.num_images))
    step, next_arguments = by_kind["train"]

    def run(state, count):
        for _ in range(count):
            state, metrics = step(state, *next_arguments())
            jax.block_until_ready(metrics)
        return state

    state = run(state, 2)
    with jax.profiler.trace(folder):
        began = time.perf_counter()
        run(state, arguments.steps)
        seconds = time.perf_counter() - began
    (trace,) = Path(folder).rglob("*.xplane.pb")
    return {
        "model": case.model,
        "batch_size": batch,
        "milliseconds_a_step": 1000 * seconds / arguments.steps,
        "operations": grouped(times(trace), kernels(folder), arguments.steps),
        **when_and_where(),
        "versions": {"jax": jax.__version__, "kernels": arguments.instructions or native.cpu_backend()},
    }


if __name__ == "__main__":
    main()
