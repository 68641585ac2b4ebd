"""Kills a training run with SIGKILL at moments spread over its length, restarts it, and compares bit for bit.

    python experiments/kill_and_resume.py --kills=10 --out=experiments/results/kill_and_resume

One run is left alone. For each moment another is started, killed, started again by the same command and left to
finish; parameters, batch statistics and optimiser state of its last checkpoint must equal the first run's in every
bit. Compiled programs are kept in a cache of JAX's, so that a restart takes seconds.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def command(workdir, overrides=()):
    return [
        sys.executable, "-m", "recu_jax.main", "--config=configs/digits.py", f"--workdir={workdir}",
        "--config.tensorboard=False", *overrides,
    ]  # fmt: skip


def start(workdir, cache, overrides=()):
    """Starts a run; its output goes to WORKDIR.log."""
    environment = dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(cache), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(
            command(workdir, overrides), cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def run_to_end(workdir, cache, overrides=()):
    """Seconds that the run took."""
    began = time.monotonic()
    if start(workdir, cache, overrides).wait() != 0:
        raise SystemExit(f"the run failed:\n{pathlib.Path(f'{workdir}.log').read_text()}")
    return time.monotonic() - began


def final_state(workdir):
    """Leaves of the last checkpoint's state by path."""
    import jax

    from recu_jax.checkpoint import Checkpoints

    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore(checkpoints.latest())
    checkpoints.close()
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def differences(a, b):
    """Paths at which two states differ in any bit."""
    return [
        path for path in a.keys() | b.keys() if path not in a or path not in b or a[path].tobytes() != b[path].tobytes()
    ]


def kill_and_resume(workdir, cache, seconds, overrides=()):
    """Kills a run after `seconds`, restarts it; returns how many epochs it had written down when it died."""
    process = start(workdir, cache, overrides)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    metrics = pathlib.Path(workdir) / "metrics.jsonl"
    epochs = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    run_to_end(workdir, cache, overrides)
    return epochs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10, help="of the digits run")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    import jax

    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, overrides = [], (f"--config.epochs={arguments.epochs}",)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        cache = folder / "cache"
        run_to_end(folder / "first", cache, overrides)  # fills the cache
        seconds = run_to_end(folder / "undisturbed", cache, overrides)
        expected = final_state(folder / "undisturbed")
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} arrays", flush=True)
        for i in range(arguments.kills):
            moment = (i + 0.5) / arguments.kills * seconds
            workdir = folder / f"killed_{i}"
            epochs = kill_and_resume(workdir, cache, moment, overrides)
            different = differences(expected, final_state(workdir))
            rows.append(
                {"killed_after_seconds": round(moment, 2), "epochs_written": epochs, "differing_arrays": len(different)}
            )
            print(rows[-1], flush=True)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m recu_jax.main --config=configs/digits.py", *overrides]),
        "python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count(),
        "undisturbed_seconds": round(seconds, 2), "arrays": len(expected), "kills": rows,
    }  # fmt: skip
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    lost = sum(row["differing_arrays"] > 0 for row in rows)
    print(f"{len(rows)} kills, {len(rows) - lost} resumed to the same bits, {lost} did not")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
