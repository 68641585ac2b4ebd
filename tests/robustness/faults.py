"""Defines the faults of a training run. Each starts or resumes the run, harms it, and waits until its process ends.

A fault is called as `fault(run, random)` and returns in a few words what happened. It raises `Lost` if the process did
not end as it should, or not in time.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from experiments.runs import log
from tests.robustness.run_with_faults import Lost, Run, end, run_for
from tests.support.processes import PATIENCE_SECONDS


def kill(run: Run, r: random.Random) -> str:
    """Sends SIGKILL at a random moment."""
    process = run.start()
    if run_for(process, r.uniform(0.5, run.seconds)):
        process.kill()
    end(process, {-signal.SIGKILL, 0})
    return "killed" if process.returncode else "finished first"


def kill_while_saving(run: Run, r: random.Random) -> str:
    """Sends SIGKILL while Orbax writes a checkpoint under a temporary name, or right after."""
    process = run.start()
    folder, began = run.workdir / "checkpoints", time.monotonic()
    skipped = r.randrange(3)  # not always the first save of the process
    seen = set()
    while process.poll() is None and time.monotonic() - began < PATIENCE_SECONDS + run.seconds:
        for name in os.listdir(folder) if folder.is_dir() else ():
            if "tmp" in name and name not in seen:
                seen.add(name)
                if len(seen) > skipped:
                    time.sleep(r.uniform(0, 0.03))
                    left = any("tmp" in n for n in os.listdir(folder))
                    process.kill()
                    end(process, {-signal.SIGKILL, 0})
                    return "killed inside a save" if left else "killed right after a save"
        time.sleep(0.0005)
    end(process, {0})
    return "finished first"


def _ask_to_stop(number: signal.Signals, status: int) -> Callable[[Run, random.Random], str]:
    def fault(run: Run, r: random.Random) -> str:
        before = log(run.workdir)
        process = run.start()
        if not run_for(process, r.uniform(0.5, run.seconds)):
            end(process, {0})
            return "finished first"
        process.send_signal(number)
        # Python's own handler ends a program that is still importing. Nothing is lost then.
        early = {-number, 1 if number == signal.SIGINT else -number}
        end(process, {status, 0} | early)
        said = run.said_since(before)
        if said == "stopped by SIGINT\n":  # the whole output: the run was still importing, and had read no checkpoint
            return "ended while importing"
        if process.returncode == status:
            if "the same command" not in said or "Traceback" in said:
                raise Lost(f"{number.name} without a line that says how to go on")
            return "saved and stopped" if "stopping after this step" in said else "stopped with nothing to save"
        return "finished first" if process.returncode == 0 else "ended while importing"

    fault.__doc__ = f"{number.name} at any moment."
    return fault


sigterm = _ask_to_stop(signal.SIGTERM, 75)
sigint = _ask_to_stop(signal.SIGINT, 130)
sigusr1 = _ask_to_stop(signal.SIGUSR1, 75)


def _with_checkpoints(run: Run, least: int) -> bool:
    """Kills the run as soon as it has `least` checkpoints. Returns False if the run ends before."""
    process = run.start()
    while process.poll() is None and len(run.checkpoints) < least:
        time.sleep(0.02)
    process.kill()
    end(process, {-signal.SIGKILL, 0})
    return len(run.checkpoints) >= least


def _damage(how: Callable[[pathlib.Path, random.Random], str], what: str) -> Callable[[Run, random.Random], str]:
    def fault(run: Run, r: random.Random) -> str:
        if not _with_checkpoints(run, 2):
            return "finished first"
        newest, before = run.checkpoints[-1], log(run.workdir)
        done = how(newest, r)
        process = run.start()
        while process.poll() is None and "resuming" not in run.said_since(before):
            time.sleep(0.02)
        process.kill()
        end(process, {-signal.SIGKILL, 0})
        said = run.said_since(before)
        if "resuming" not in said:
            raise Lost("there was a good checkpoint, and the run did not go on from it")
        # Damage to some files changes no contents. The end of the run shows whether the contents were right.
        noticed = f"the checkpoint of step {newest.name} is damaged" in said
        return f"{done}: {'noticed, the one before used' if noticed else 'of no consequence'}"

    fault.__doc__ = what
    return fault


def _files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(f for f in checkpoint.rglob("*") if f.is_file() and f.stat().st_size)


def _truncate(checkpoint, r):
    file = r.choice(_files(checkpoint))
    os.truncate(file, r.randrange(file.stat().st_size))
    return "truncated a file"


def _flip(checkpoint, r):
    file = r.choice(_files(checkpoint))
    data = bytearray(file.read_bytes())
    for _ in range(r.choice([1, 1, 16])):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)
    file.write_bytes(data)
    return "flipped bits"


def _remove(checkpoint, r):
    r.choice(_files(checkpoint)).unlink()
    return "removed a file"


def _halve(checkpoint, r):
    entries = sorted(checkpoint.iterdir())
    for entry in r.sample(entries, len(entries) // 2 + 1):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return "deleted half of the folder"


truncated = _damage(_truncate, "A file of the newest checkpoint is cut off.")
flipped = _damage(_flip, "Bits of the newest checkpoint are flipped.")
missing = _damage(_remove, "A file of the newest checkpoint is missing.")
half_deleted = _damage(_halve, "The newest checkpoint's folder is half deleted.")


def failing_write(run: Run, r: random.Random) -> str:
    """Lets the system refuse to write files beyond a size, as a quota does."""
    before = log(run.workdir)
    # Less than the arrays of a checkpoint, but more than the run's output, which the limit applies to as well.
    process = run.start(limit_file_bytes=r.choice([1 << 17, 1 << 18]))
    end(process, {3, 0})
    if process.returncode == 3 and "Traceback" in run.said_since(before):
        raise Lost("a failing write with a traceback")
    return "stopped with a line" if process.returncode else "finished first"


def full_disk(run: Run, r: random.Random) -> str:
    """Fills the disk of `run.workdir`. It must be a small disk for this run alone."""
    disk, before = run.workdir.parent, log(run.workdir)
    filler = disk / "filler"
    space = shutil.disk_usage(disk).free - r.randrange(1 << 12, 1 << 20)
    with open(filler, "wb") as file:
        file.write(bytes(max(space, 0)))
    try:
        process = run.start()
        end(process, {3, 0})
    finally:
        filler.unlink()
    if process.returncode == 3 and "Traceback" in run.said_since(before):
        raise Lost("a full disk with a traceback")
    return "stopped with a line" if process.returncode else "finished first"


def second_process(run: Run, r: random.Random) -> str:
    """Starts the same command twice. The second must be refused."""
    process = run.start()
    holder = run.workdir / "lock.holder"
    while process.poll() is None and not (holder.exists() and str(process.pid) in holder.read_text()):
        time.sleep(0.02)
    # The first stands still meanwhile: on a busy machine it would end before the second looks.
    process.send_signal(signal.SIGSTOP)
    held = process.poll() is None and holder.exists()
    before = log(run.workdir)
    try:
        end(run.start(), {2, 0})
    finally:
        process.kill()
    refused = "is in use by" in run.said_since(before)
    if held and not refused:
        raise Lost("two processes in one workdir")
    end(process, {-signal.SIGKILL, 0})
    return "refused" if refused else "finished first"


def _children(process: subprocess.Popen) -> list[int]:
    """Returns the process ids of the input workers."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task")
    found = [int(pid) for task in tasks.glob("*") for pid in (task / "children").read_text().split()]
    return [pid for pid in found if "spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]


def _harm_worker(number: signal.Signals) -> Callable[[Run, random.Random], str]:
    def fault(run: Run, r: random.Random) -> str:
        before = log(run.workdir)
        process = run.start()
        try:
            while process.poll() is None and not _children(process):
                time.sleep(0.05)
            if run_for(process, r.uniform(0, run.seconds / 2)):
                workers = _children(process)
                if workers:
                    os.kill(r.choice(workers), number)
        except (ProcessLookupError, FileNotFoundError):
            pass
        end(process, {3, 0})
        said = run.said_since(before)
        if process.returncode == 3 and ("worker" not in said or "Traceback" in said):
            raise Lost("an input worker is gone, and no line says so")
        return "stopped with a line" if process.returncode else "finished first"

    fault.__doc__ = f"An input worker gets {number.name}."
    return fault


worker_killed = _harm_worker(signal.SIGKILL)
worker_hangs = _harm_worker(signal.SIGSTOP)

ANY = {
    "SIGKILL at any moment": kill,
    "SIGKILL inside a save": kill_while_saving,
    "SIGTERM": sigterm,
    "SIGINT": sigint,
    "SIGUSR1": sigusr1,
    "checkpoint: bits flipped": flipped,
    "checkpoint: file truncated": truncated,
    "checkpoint: file missing": missing,
    "checkpoint: half deleted": half_deleted,
    "write refused (file size limit)": failing_write,
    "second process": second_process,
}
ON_OWN_DISK = {"disk full": full_disk}
WITH_WORKERS = {"input worker killed": worker_killed, "input worker hangs": worker_hangs}
