#!/usr/bin/env python3
"""Checks that a version can be released. Prints a line for each check.

    python release/check.py                                 # all checks, about an hour
    python release/check.py tree version changelog          # some
    python release/check.py --dist=dist digits_3.12         # with files that build_wheels.py made

The last result of each check is recorded in experiments/results/release/, with the commit. The exit status is 1 if a
check fails.
"""

import argparse
import datetime
import json
import pathlib
import sys
import tempfile
import time

from checks import CHECKS, RECORDS, CheckError, Release, run
from wheel_contents import ROOT, version


def record(name, entry):
    """Writes the result of a check into the record of this version."""
    path = ROOT / RECORDS / f"{version()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = entry
    ordered = {known: results[known] for known in CHECKS if known in results}
    path.write_text(json.dumps(ordered, indent=1) + "\n")


def perform(name, release):
    """Runs a check, prints its line and records the result. Returns whether the check passed."""
    start = time.monotonic()
    try:
        holds, found = True, CHECKS[name](release)
    except CheckError as error:
        holds, found = False, str(error)
    seconds = round(time.monotonic() - start)
    print(f"{'ok    ' if holds else 'FAILED'} {name:12} {seconds:5d} s  {found}", flush=True)
    record(
        name,
        {
            "holds": holds,
            "found": found.replace(str(release.work), "WORK").replace(str(ROOT), "CHECKOUT"),
            "seconds": seconds,
            "commit": run("git", "rev-parse", "--short", "HEAD"),
            "day": str(datetime.date.today()),
        },
    )
    return holds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; without any: all")
    parser.add_argument("--dist", type=pathlib.Path, help="folder of the release's files; without it they are built")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.checks if name not in CHECKS]:
        parser.error(f"there is no check {', '.join(unknown)}; checks: {', '.join(CHECKS)}")
    with tempfile.TemporaryDirectory() as folder:
        release = Release(pathlib.Path(folder), arguments.dist and arguments.dist.resolve())
        results = [perform(name, release) for name in arguments.checks or CHECKS]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
