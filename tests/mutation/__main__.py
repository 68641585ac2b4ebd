"""Mutates the code, and records which mutants the tests kill: `python -m tests.mutation --help`."""

import argparse
import collections
import contextlib
import datetime
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from tests.mutation import targets
from tests.mutation.faults import FAULTS
from tests.mutation.forks import Server
from tests.mutation.mutants import Mutant, sample
from tests.mutation.notes import Notes
from tests.mutation.scores import latest, markdown
from tests.support import ROOT

FOLDER = ROOT / "build" / "mutation"
# The groups of modules, or rooms (targets.py), where a wrong result is hardest to see.
CORE = ("method", "step", "checkpoint")


def main(argv: list[str]):
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition(":")[0])
    parser.add_argument("what", nargs="*", help="paths of modules, or rooms (targets.py); all if none is named")
    parser.add_argument("--results", type=pathlib.Path, default=FOLDER / "results.jsonl", help="a line per mutant")
    parser.add_argument("--share", type=float, default=0.15, help=f"of the places to mutate; twice that in {CORE}")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--again", action="store_true", help="run the mutants again that lived")
    parser.add_argument("--scores", action="store_true", help="print the scores of --results, and run nothing")
    parser.add_argument("--faults", action="store_true", help="run the faults of faults.py instead, each with its test")
    flags = parser.parse_args(argv)
    if flags.scores:
        print(markdown(latest(flags.results)))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    flags.results.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve() / "recu_jax"
        _copy(root)
        server = stack.enter_context(contextlib.closing(Server(root, FOLDER / "compiled")))
        if flags.faults:
            _run_faults(server, root)
            return
        notes = Notes(root, FOLDER)
        known = latest(flags.results)
        done = {name for name, record in known.items() if not (flags.again and record["status"] == "lived")}
        killers: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        for record in known.values():
            _count(killers, record)
        for room, modules in _by_room(flags.what or list(targets.ROOMS)).items():
            share = flags.share * (2 if room in CORE else 1)
            mutants = [mutant for module in modules for mutant in sample(module, share, flags.seed)]
            # In a random order, so that a run that is stopped has a fair sample.
            random.Random(flags.seed).shuffle(mutants)
            todo = [mutant for mutant in mutants if mutant.name not in done]
            print(f"{room}: {len(mutants)} mutants, {len(todo)} to run", flush=True)
            if todo:
                notes.fill(server, targets.test_files(room))
            for mutant in todo:
                record = _run(server, notes, root, mutant, killers[mutant.module]) | {"seed": flags.seed}
                with open(flags.results, "a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{record['status']:7} {record['seconds']:6.1f} s  {mutant.name}  {record['test']}", flush=True)
                _count(killers, record)


def _by_room(what):
    """Returns {room: modules} for the paths of modules and the rooms in `what`."""
    found: dict[str, list[str]] = {}
    for name in what:
        for module in targets.modules():
            if name in (module, targets.room(module)):
                found.setdefault(targets.room(module), []).append(module)
    if unknown := set(what) - {module for modules in found.values() for module in modules} - set(found):
        raise SystemExit(f"error: no tests are mapped to {', '.join(sorted(unknown))}; see tests/mutation/targets.py")
    return found


def _count(killers, record):
    """If a test killed the mutant, counts the mutant for the function of that test."""
    if record["test"]:
        killers[record["module"]][record["test"].partition("[")[0]] += 1


def _copy(root):
    """Copies all files that git does not ignore, and the compiled kernels. Then compiles Python files to bytecode."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kernels = [path.relative_to(ROOT) for path in (ROOT / "recu_jax" / "ops").glob("_kernels*.so")]
    for name in [*listed, *kernels]:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "recu_jax", "tests"], cwd=root, check=True)


def _run(server: Server, notes: Notes, root: pathlib.Path, mutant: Mutant, killers) -> dict:
    """Runs the tests of one mutant, and returns its record."""
    tests, expected = notes.tests_for(mutant, killers)
    record = {
        "name": mutant.name,
        "room": targets.room(mutant.module),
        "module": mutant.module,
        "line": mutant.line,
        "before": mutant.before,
        "after": mutant.after,
        "operator": mutant.operator,
        "date": datetime.date.today().isoformat(),
        "tests": len(tests),
        "status": "lived",
        "test": None,
        "reason": "no test executes it",
        "seconds": 0.0,
    }
    if not tests:
        return record
    result = root.parent / "result.json"
    result.unlink(missing_ok=True)
    (root.parent / "log").unlink(missing_ok=True)
    task = {"log": str(root.parent / "log"), "notes": None, "tests": tests, "result": str(result)}
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    began = time.monotonic()
    with _mutated(root / mutant.module, mutant.code):
        # Seconds of processor time and of real time. The second limit is for a mutant that waits forever. It is long,
        # because the machine may be busy.
        limits = 4 * expected + 60, 60 * expected + 1800
        status, seconds = server.run(["-x", "-m", "slow or not slow", *files], task, *limits)
    failure = json.loads(result.read_text()) if result.exists() else {}
    if status in (0, 5):
        record["reason"] = "" if status == 0 else "the tests have other names with it"
    else:
        reason = "a limit on time" if status == "time" else failure.get("reason", f"pytest ended with status {status}")
        record |= {"status": "killed", "test": failure.get("test"), "reason": reason}
    return record | {"seconds": seconds, "wall": round(time.monotonic() - began, 1)}


def _run_faults(server: Server, root: pathlib.Path):
    """Runs the test of each fault twice: on the right code and on the code with the fault.

    Raises SystemExit unless every test passes on the right code and fails on the other.
    """
    wrong = 0
    for fault in FAULTS:
        path, result = root / "recu_jax" / fault.module, root.parent / "result.json"
        result.unlink(missing_ok=True)
        task = {"log": str(root.parent / "log"), "notes": None, "tests": None, "result": str(result)}
        arguments = ["-x", "-m", "slow or not slow", f"tests/{fault.test}"]
        right, _ = server.run(arguments, task, 600, 3600)
        with _mutated(path, path.read_text().replace(fault.right, fault.wrong)):
            status, _ = server.run(arguments, task, 600, 3600)
        good = (right, status) == (0, 1)
        wrong += not good
        reason = json.loads(result.read_text())["reason"] if result.exists() else f"{right}, {status}"
        print(f"{'noticed' if good else 'MISSED'}: {fault.what}: {fault.test}: {reason}", flush=True)
    if wrong:
        raise SystemExit(f"error: {wrong} of {len(FAULTS)} faults: the test fails without the fault, or passes with it")


@contextlib.contextmanager
def _mutated(path, code):
    """Writes a mutant over a module. Then restores the module and its file times, so that its bytecode stays valid."""
    original, times = path.read_bytes(), path.stat()
    path.write_text(code)
    try:
        yield
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


if __name__ == "__main__":
    main(sys.argv[1:])
