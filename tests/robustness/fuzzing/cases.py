"""Runs the cases of a target in a child process, so that crashes, hangs and too much memory are noticed.

    python -m tests.robustness.fuzzing.cases TARGET FIRST LAST RESULTS SEED SECONDS

The child runs cases FIRST to LAST - 1. For each case it appends `NUMBER begins` to RESULTS, and then `NUMBER OUTCOME`,
with `: DETAIL` if the case is bad. `run_cases` starts the child. If a case ends the child, `run_cases` starts another
child with the next case. The bytes of a case depend only on the seed, the target's name and samples, and the number.
"""

import collections
import dataclasses
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np

from tests.support import ROOT

SECONDS_A_CASE = 20
# The most bytes that a case may add to the process's memory. An image may take 512 MiB, and a copy of it as much.
MEMORY = 1536 << 20
RIGHT, REFUSED, CRASHED, HUNG, MEMORY_OUT, UNDECLARED = OUTCOMES = (
    "right values", "refused", "crashed", "hung", "too much memory", "undeclared",
)  # fmt: skip


@dataclasses.dataclass
class Outcome:
    """Number of cases by outcome, and `(number, outcome, detail)` of each bad case."""

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bad: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)

    def add(self, number: int, outcome: str, detail: str = "") -> None:
        self.counts[outcome] += 1
        if outcome not in (RIGHT, REFUSED):
            self.bad.append((number, outcome, detail))


def run_cases(target: str, count: int, seed: int = 0, seconds: int = SECONDS_A_CASE) -> Outcome:
    """Runs cases 0 to `count` - 1 of `target`, each for at most `seconds`, in as many processes as needed."""
    outcome, first = Outcome(), 0
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", JAX_PLATFORMS="cpu")
    with tempfile.TemporaryDirectory() as folder:
        while first < count:
            results, errors = pathlib.Path(folder, "results"), pathlib.Path(folder, "errors")
            results.write_text("")
            numbers = [str(first), str(count), str(results), str(seed), str(seconds)]
            command = [sys.executable, "-m", __name__, target, *numbers]
            with errors.open("wb") as stderr:
                code = subprocess.run(command, cwd=ROOT, env=environment, stderr=stderr).returncode
            began = None
            for line in results.read_text(errors="replace").splitlines():
                number, _, said = line.partition(" ")
                if said == "begins":
                    began = int(number)
                    continue
                kind, _, detail = said.partition(": ")
                outcome.add(int(number), kind, detail)
                began, first = None, int(number) + 1
            if began is not None:
                how = HUNG if code == -signal.SIGALRM else MEMORY_OUT if code == -signal.SIGKILL else CRASHED
                outcome.add(began, how, f"exit status {code}: {errors.read_text(errors='replace')[-500:]}")
                first = began + 1
            elif first < count:
                raise SystemExit(f"the cases of {target} do not run:\n{errors.read_text(errors='replace')[-3000:]}")
    return outcome


def case(target: str, number: int, seed: int, samples: list[bytes]) -> bytes:
    """Returns the bytes of a case."""
    from tests.robustness.fuzzing.mutations import mutated

    return mutated(np.random.default_rng([seed, zlib.crc32(target.encode()), number]), samples)


def main() -> None:
    target, results = sys.argv[1], sys.argv[4]
    first, last, seed, seconds = (int(sys.argv[i]) for i in (2, 3, 5, 6))
    from recu_jax.data.images import CorruptImage
    from recu_jax.errors import UserError
    from tests.robustness.fuzzing import broken
    from tests.robustness.fuzzing.targets import TARGETS

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, open(results, "a", buffering=1) as written:
        make = TARGETS[target][0] if target in TARGETS else broken.TARGETS[target]
        samples, read = make(pathlib.Path(folder))
        for sample in samples[:1]:  # the first reading also loads modules, and their memory does not count
            read(sample)
        _limit_memory()
        before = _peak()
        for number in range(first, last):
            data = case(target, number, seed, samples)
            written.write(f"{number} begins\n")
            signal.alarm(seconds)  # SIGALRM ends the process even inside C code
            outcome = _outcome(read, data, (UserError, CorruptImage))
            signal.alarm(0)
            if _peak() - before > MEMORY:
                outcome = f"{MEMORY_OUT}: {_peak() - before >> 20} MiB"
            before = max(before, _peak())
            written.write(f"{number} {outcome}\n")
    sys.stdout.flush()
    os._exit(0)  # does not wait for worker threads of the readers


def _outcome(read, data, declared):
    try:
        read(data)
    except declared as error:
        text = str(error)
        if "\n" in text:
            return f"{UNDECLARED}: a message of several lines {text!r}"
        # Messages of OpenCV and PyTorch at the memory limit of the process.
        if "nsufficient memory" in text or "allocate" in text:
            return f"{MEMORY_OUT}: {text}"
        return REFUSED
    except MemoryError as error:
        return f"{MEMORY_OUT}: {error!r}"
    except BaseException as error:
        frame = error.__traceback__
        while frame.tb_next:
            frame = frame.tb_next
        where = f"{frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}"
        return f"{UNDECLARED}: {' '.join(repr(error).split())[:300]} at {where}"
    return RIGHT


def _limit_memory():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak():
    """Returns the peak of this process's memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()
