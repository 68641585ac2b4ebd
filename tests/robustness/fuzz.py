"""Gives damaged and random bytes to everything that reads files from outside. `fuzzing/` has the parts.

    python -m tests.robustness.fuzz --cases=10000 [--out=experiments/results/fuzz] [--targets=npz,decode] [--seed=0]

`--cases` is the number of cases for each target. Slow targets get a fifth of it. Every case must give a valid value or
a declared exception, within 20 s and 1.5 GiB. Anything else is printed, and the exit status is then 1. Needs Linux,
because memory is read from /proc.
"""

import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import sys
import time

HEAD = ("target", "cases", "right values", "refused", "crashed", "hung", "too much memory", "undeclared", "seconds")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="for each target")
    parser.add_argument("--targets", help="names with commas between; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    from tests.robustness.fuzzing.cases import run_cases
    from tests.robustness.fuzzing.targets import TARGETS

    with_torch = importlib.util.find_spec("torch") is not None
    names = arguments.targets.split(",") if arguments.targets else list(TARGETS)
    rows, bad = [], {}
    print(_line(HEAD), flush=True)
    print(_line("-" * len(h) for h in HEAD), flush=True)
    for name in names:
        _, share, needs_torch = TARGETS[name]
        if needs_torch and not with_torch:
            print(f"| {name} | not run: pip install torch |")
            continue
        began = time.monotonic()
        outcome = run_cases(name, max(1, round(arguments.cases * share)), arguments.seed)
        row = {"target": name, "cases": outcome.counts.total()}
        row |= {kind: outcome.counts[kind] for kind in HEAD[2:-1]} | {"seconds": round(time.monotonic() - began, 1)}
        rows.append(row)
        print(_line(row.values()), flush=True)
        if outcome.bad:
            bad[name] = outcome.bad
    total = {h: sum(row[h] for row in rows) for h in HEAD[1:]}
    print(_line(["all", *total.values()]))
    for name, cases in bad.items():
        for number, how, detail in cases[:20]:
            print(f"{name} case {number} {how}: {detail}", file=sys.stderr)
    if arguments.out:
        _record(arguments, rows, total, bad)
    sys.exit(bool(bad))


def _line(cells):
    return f"| {' | '.join(map(str, cells))} |"


def _record(arguments, rows, total, bad):
    from importlib.metadata import PackageNotFoundError, version

    def versions():
        for package in ("numpy", "opencv-python-headless", "pillow", "array-record", "tensorflow-datasets", "torch"):
            try:
                yield package, version(package)
            except PackageNotFoundError:
                yield package, None

    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m tests.robustness.fuzz --cases={arguments.cases} --seed={arguments.seed}",
        "python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
        "versions": dict(versions()), "targets": rows, "all": total, "bad": bad,
    }  # fmt: skip
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
