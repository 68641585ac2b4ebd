"""Measures the seconds of an import of recu_jax, and the seconds from a process's start to its first training step."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.turns import REPOSITORY, environment

_CPU = environment(JAX_PLATFORMS="cpu")
PEER = "import flax.linen"
IMPORTS = ("import recu_jax", "from recu_jax import BinaryConv, create_model")
# Slow imports, which a run must not wait for unless it needs them.
HEAVY = ("tensorflow", "tensorflow_datasets", "cv2", "matplotlib", "grain", "sklearn")


def import_seconds(statement, python=sys.executable):
    """Returns the seconds of a whole process that executes `statement` alone."""
    began = time.perf_counter()
    subprocess.run([python, "-c", statement], check=True, env=_CPU, cwd="/")
    return time.perf_counter() - began


def heavy_imports(python=sys.executable):
    """Returns the modules of `HEAVY` that the training program imports before it knows its data set."""
    code = f"import sys, recu_jax.main, recu_jax.training.loop; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([python, "-c", code], check=True, env=_CPU, cwd="/", capture_output=True, text=True)
    return done.stdout.split()


def first_step_seconds(cache, python=sys.executable):
    """Returns the seconds until `recu_jax.main` reports its first step on the digits. `cache`: compilation cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            python, "-m", "recu_jax.main", "--config=configs/digits.py", f"--workdir={folder}/run",
            "--config.log_every_steps=1", "--config.epochs=1", f"--config.compilation_cache_dir={cache}",
        ]  # fmt: skip
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=REPOSITORY, env=_CPU, stdout=subprocess.PIPE, text=True)
        line = next((line for line in process.stdout if "step 1/" in line), None)
        seconds = time.perf_counter() - began
        # Waits for the end, because a process that is killed may leave the cache half written.
        process.communicate()
    if line is None or process.returncode:
        raise RuntimeError(f"no first step was reported, exit {process.returncode}")
    return seconds


def first_steps():
    """Returns the seconds of a cold start, and of a warm start with the cache that the cold one left."""
    with tempfile.TemporaryDirectory() as cache:
        cold = first_step_seconds(cache)
        if not any(Path(cache).iterdir()):
            raise RuntimeError("the first run left nothing in the cache")
        return {"cold": cold, "warm": first_step_seconds(cache)}
