"""Traces train steps on one GPU, and shows how long each kernel takes.

    python experiments/benchmarks/gpu_profile.py --model=cifar_resnet20 --dtype=float32 --out=FILE.json

It traces one dispatch of `steps.GPU_STEPS_PER_DISPATCH` steps of the trainer, on images of noise, after one dispatch
that compiles. The record gives, per step: the milliseconds from the start of the first kernel to the end of the last
one, the milliseconds in which some kernel ran, and for each kernel its name, how often it ran, and its milliseconds.
`--rehearse` traces a small step on a machine without a GPU, where the trace has no kernels.
"""

import argparse
import collections
import json
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks import steps

_SHOWN = 25


def kernels(trace):
    """Returns name, start and end (nanoseconds) of each event on a GPU's streams in a trace file (.xplane.pb)."""
    from jax.profiler import ProfileData

    found = []
    for plane in ProfileData.from_file(str(trace)).planes:
        if plane.name.startswith("/device:GPU"):
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    found += [(e.name, e.start_ns, e.start_ns + e.duration_ns) for e in line.events]
    return sorted(found, key=lambda event: event[1])


def busy(events):
    """Returns the nanoseconds in which at least one of the events ran."""
    total, until = 0.0, float("-inf")
    for _, start, end in events:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def summary(events, count):
    """Returns the record of a trace of `count` steps."""
    times = collections.defaultdict(list)
    for name, start, end in events:
        times[name].append(end - start)
    rows = [
        {"kernel": name, "times_a_step": len(found) / count, "milliseconds": sum(found) / count / 1e6}
        for name, found in times.items()
    ]
    span = max(end for _, _, end in events) - events[0][1] if events else 0.0
    return {
        "steps": count,
        "kernels_a_step": len(events) / count,
        "milliseconds_a_step": span / count / 1e6,
        "busy_milliseconds_a_step": busy(events) / count / 1e6,
        "kernels": sorted(rows, key=lambda row: -row["milliseconds"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=steps.BATCH_SIZES, default="cifar_resnet20")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    import jax

    device, batch = ("cpu", 8) if arguments.rehearse else ("gpu", arguments.batch_size)
    case = steps.Case(arguments.model, batch, 4 * batch, device=device, dtype=arguments.dtype)
    state, by_kind = steps.jax_steps(case, steps.random_dataset(case.model, case.num_images))
    step, next_arguments = by_kind["train"]
    state, _ = jax.block_until_ready(step(state, *next_arguments()))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(step(state, *next_arguments()))
        (trace,) = Path(folder).rglob("*.xplane.pb")
        record = summary(kernels(trace), 1 if arguments.rehearse else steps.GPU_STEPS_PER_DISPATCH)
    record |= {"device": jax.devices()[0].device_kind, "system": platform.platform(), "jax": jax.__version__}
    record |= {"model": case.model, "batch_size": batch, "dtype": case.dtype}
    print(
        f"{record['kernels_a_step']:.0f} kernels a step, {record['milliseconds_a_step']:.3f} ms, of which "
        f"{record['busy_milliseconds_a_step']:.3f} ms with a kernel"
    )
    for row in record["kernels"][:_SHOWN]:
        print(f"{row['milliseconds']:8.4f} ms {row['times_a_step']:6.1f} x  {row['kernel'][:100]}")
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
