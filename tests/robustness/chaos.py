"""Injects faults into training runs, restarts them by the same command, and compares their final states bit for bit.

    python -m tests.robustness.chaos --faults=200 --data_dir=DIR --out=experiments/results/chaos

Each kind of run (digits, CIFAR-10 from arrays, photographs through Grain's workers) first runs twice without faults.
The first of these runs fills the compilation cache. Then further runs of this kind get random faults that apply to
them, one after another, until the runs end. Parameters, statistics, optimizer state and metrics must equal those of the
second run without faults. If a run differs or fails, all its faults count as lost. The faults of all other runs count
as survived. The fault "disk full" needs root and Linux. With these, each run has a small disk of its own, in a separate
mount namespace.

--data_dir: TFDS's folder with cifar10 and imagenet2012. A fixed part of cifar10 and all of imagenet2012 are used.
Without it, only runs on the digits get faults.
"""

import argparse
import collections
import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

from experiments.runs import differences, final_state, log, measured, rows
from recu_jax.data import load
from tests.robustness import faults
from tests.robustness.run_with_faults import Lost, Run

_COMMON = ["--config.tensorboard=False", "--config.log_every_steps=1000"]
_CIFAR_IMAGES = (256, 128)
_DISK_BYTES = 64 << 20


def workloads(arguments, folder):
    """Returns {kind of run: (arguments of the command, {name: fault} of the faults that apply)}."""
    own_disk = faults.ON_OWN_DISK if arguments.own_disks else {}
    fits = {**faults.ANY, **own_disk}
    found = {"digits": (["--config=configs/digits.py", "--config.epochs=4", *_COMMON], fits)}
    if arguments.data_dir:
        part, whole = folder / "cifar_part.npz", load("cifar10", arguments.data_dir)
        n, m = _CIFAR_IMAGES
        np.savez(
            part,
            train_images=whole.train_images[:n], train_labels=whole.train_labels[:n],
            test_images=whole.test_images[:m], test_labels=whole.test_labels[:m],
        )  # fmt: skip
        found["CIFAR-10"] = (
            ["--config=configs/cifar10.py", "--config.dataset=npz", f"--config.data_dir={part}", "--config.epochs=3",
             "--config.batch_size=64", "--config.eval_batch_size=128", *_COMMON],
            fits,
        )  # fmt: skip
        found["photographs"] = (
            ["--config=configs/imagenet.py", f"--config.data_dir={arguments.data_dir}", "--config.model=digits_resnet8",
             "--config.image_size=32", "--config.eval_resize=36", "--config.batch_size=20", "--config.num_workers=1",
             "--config.eval_batch_size=100", "--config.epochs=3", "--config.data_timeout_seconds=10", *_COMMON],
            # Not `failing_write`: its limit on file sizes would also hold for the workers' shared memory.
            {k: v for k, v in fits.items() if v is not faults.failing_write} | faults.WITH_WORKERS,
        )  # fmt: skip
    return found


class Lane:
    """Runs on one core that get faults, one run after the other."""

    def __init__(self, folder, cpu, own_disks):
        self.folder, self.cpus, self.own_disks = folder, {cpu}, own_disks
        self.count = 0

    def new_run(self, arguments, cache, seconds):
        disk = self.folder / f"run_{self.count}"
        self.count += 1
        disk.mkdir(parents=True)
        if self.own_disks:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", disk], check=True)
        return Run(arguments, disk / "work", cache, seconds, self.cpus)

    def end(self, run):
        if self.own_disks:
            subprocess.run(["umount", run.workdir.parent], check=True)

    def left_alone(self, arguments, cache):
        """Runs twice without faults. Returns the second run's state, (metrics, diagnostics), and seconds."""
        first = self.new_run(arguments, cache, 0)
        first.start().wait()  # fills the cache
        self.end(first)
        run, began = self.new_run(arguments, cache, 0), time.monotonic()
        if run.start().wait():
            raise SystemExit(f"the run that was left alone failed:\n{log(run.workdir)}")
        seconds = time.monotonic() - began
        state, kept = final_state(run.workdir), (rows(run.workdir), measured(run.workdir))
        self.end(run)
        return state, kept, seconds

    def harm(self, name, arguments, fitting, cache, expected, kinds, r):
        """Takes faults from the end of `kinds` and injects them into one run until it ends. Returns a row per fault."""
        state, (metrics, layers), seconds = expected
        run, done = self.new_run(arguments, cache, seconds), []
        lost = None
        while kinds and lost is None:
            kind = kinds.pop()
            try:
                saw = fitting[kind](run, r)
            except Lost as reason:
                lost, saw = str(reason), "LOST"
            done.append({"run": name, "fault": kind, "saw": saw})
            if len(rows(run.workdir)) == len(metrics):
                break
        if lost is None and run.start().wait():
            lost = f"the last start failed: {log(run.workdir).splitlines()[-1]}"
        if lost is None:
            wrong = differences(state, final_state(run.workdir))
            lost = f"{len(wrong)} arrays differ" if wrong else None
            if rows(run.workdir) != metrics:
                lost = "metrics.jsonl differs"
            if measured(run.workdir) != layers:
                lost = "diagnostics.jsonl differs"
        if lost is not None:
            done = [{**row, "lost": lost, "log": log(run.workdir)[-2000:]} for row in done]
        self.end(run)
        return done


def run_lane(cpu, found, count, arguments, folder, report):
    lane, r, done = Lane(folder / f"lane_{cpu}", cpu, arguments.own_disks), random.Random(arguments.seed + cpu), []
    expected, cache = {}, folder / f"cache_{cpu}"
    deck = {name: [] for name in found}
    while sum(map(injected, done)) < count:
        # The kind of run that has had the fewest faults comes next.
        name = min(found, key=lambda n: (sum(row["run"] == n for row in done), n))
        command, fitting = found[name]
        if name not in expected:
            expected[name] = lane.left_alone(command, cache)
            report(f"core {cpu}: {name} takes {expected[name][2]:.1f} s when left alone")
        if len(deck[name]) < 6:
            deck[name] = r.sample(list(fitting), len(fitting)) + deck[name]
        rows_of_run = lane.harm(name, command, fitting, cache, expected[name], deck[name], r)
        for row in rows_of_run:
            report(
                f"core {cpu}: {row['run']}: {row['fault']}: {row['saw']}"
                + (f" LOST: {row['lost']}" if "lost" in row else "")
            )
        done += rows_of_run
    return done


def injected(row):
    """Returns whether the run still ran when the fault was due."""
    return row["saw"] != "finished first"


def table(done):
    """Returns Markdown: fault, count, survived, lost."""
    done = [row for row in done if injected(row)]
    kinds = collections.Counter(row["fault"] for row in done)
    lost = collections.Counter(row["fault"] for row in done if "lost" in row)
    lines = ["| fault | count | survived | lost |", "|---|---|---|---|"]
    lines += [f"| {kind} | {n} | {n - lost[kind]} | {lost[kind]} |" for kind, n in sorted(kinds.items())]
    return "\n".join([*lines, f"| all | {len(done)} | {len(done) - sum(lost.values())} | {sum(lost.values())} |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, help="cores, each with a run of its own at a time")
    parser.add_argument("--data_dir", help="TFDS's folder, with cifar10 and imagenet2012")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.own_disks = sys.platform == "linux" and os.geteuid() == 0
    if arguments.own_disks and "CHAOS_OWN_MOUNTS" not in os.environ:
        os.execvpe(
            "unshare",
            ["unshare", "--mount", sys.executable, "-m", "tests.robustness.chaos", *sys.argv[1:]],
            {**os.environ, "CHAOS_OWN_MOUNTS": "1"},
        )
    import jax

    jax.config.update("jax_platforms", "cpu")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder = pathlib.Path(folder)
        found = workloads(arguments, folder)
        share = -(-arguments.faults // arguments.lanes)
        with concurrent.futures.ThreadPoolExecutor(arguments.lanes) as pool:
            cpus = sorted(os.sched_getaffinity(0))[: arguments.lanes]
            lanes = [
                pool.submit(run_lane, cpu, found, share, arguments, folder, lambda line: print(line, flush=True))
                for cpu in cpus
            ]
            done = [row for lane in lanes for row in lane.result()]
    print(table(done))
    lost = sum("lost" in row for row in done)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        result = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": arguments.seed, "seconds": round(time.monotonic() - began), "lanes": arguments.lanes,
            "python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count(),
            "commands": {n: " ".join(c for c in command if "dir" not in c) for n, (command, _) in found.items()},
            "faults": done,
        }  # fmt: skip
        (arguments.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.out / "table.md").write_text(table(done) + "\n")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
