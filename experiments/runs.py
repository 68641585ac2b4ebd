"""Starts training runs as processes, reads their files, and compares their final states bit for bit."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
# Fields of metrics.jsonl that differ between two runs with the same result, because they measure time.
NOT_COMPARED = {"images_per_second", "data_wait"}
# Flags of the digits runs behind the recorded results of `paper/` and `compare_binarizers.py`.
RECORDED_DIGITS = ["--config=configs/digits.py", "--config.batch_size=64", "--config.weight_decay=5e-4"]


def start(
    arguments: list[str],
    workdir: pathlib.Path,
    cache: pathlib.Path | None = None,
    environment: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    log: pathlib.Path | None = None,
) -> subprocess.Popen:
    """Starts `python -m recu_jax.main` on the CPU; its output is appended to WORKDIR.log.

    Args:
      arguments: arguments of the command, without --workdir.
      workdir: folder of the run.
      cache: folder for compiled programs, so that a restart takes seconds.
      environment: variables that are added to those of this process, and that may choose another platform.
      prefix: words before the command, such as `taskset -c 0`.
      log: file for the output instead of WORKDIR.log.
    """
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.getenv("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    # jax 0.10 logs a page about the target machine for each program that it reads from the cache. Level 3
    # hides this page.
    env["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if cache is not None:
        env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [*prefix, sys.executable, "-m", "recu_jax.main", *arguments, f"--workdir={workdir}"]
    with open(log or log_path(workdir), "ab") as opened:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=env | (environment or {}), stdout=opened, stderr=subprocess.STDOUT
        )


def log_path(workdir: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(f"{workdir}.log")


def log(workdir: pathlib.Path) -> str:
    """Returns what the runs in `workdir` have printed so far."""
    path = log_path(workdir)
    return path.read_text(errors="replace") if path.exists() else ""


def rows(workdir: pathlib.Path) -> list[dict]:
    """Returns the rows of metrics.jsonl, without the fields in `NOT_COMPARED`."""
    return [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in _lines(workdir, "metrics.jsonl")]


def measured(workdir: pathlib.Path) -> list[dict]:
    """Returns the diagnostics after each epoch, by the names of the layers."""
    return [row["layers"] for row in _lines(workdir, "diagnostics.jsonl")]


def _lines(workdir, name):
    path = pathlib.Path(workdir) / name
    return map(json.loads, path.read_text().splitlines() if path.exists() else [])


def final_state(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the newest checkpoint's state, by path in the state."""
    import jax

    from recu_jax.training.checkpoint import saved

    state = saved(workdir)[-1].state()
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
    """Returns the paths at which two states differ in any bit, and the paths that only one state has."""
    return sorted(
        path for path in a.keys() | b.keys() if path not in a or path not in b or a[path].tobytes() != b[path].tobytes()
    )
