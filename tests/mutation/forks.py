"""Runs pytest in processes that are forked from one that has imported the libraries, and none of recu_jax.

An import of JAX, Flax, Orbax and Grain takes seconds, as long as most of a mutant's tests.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback

# Libraries that recu_jax and its tests import.
_LIBRARIES = (
    "jax", "jax.export", "jax.experimental.checkify", "jax.experimental.multihost_utils", "flax.linen", "flax.nnx",
    "optax", "orbax.checkpoint", "grain.python", "sklearn.datasets", "ml_collections", "tensorboardX", "rich.table",
    "tensorflow_datasets", "cv2", "PIL.Image", "absl.flags", "absl.app", "tqdm", "safetensors.numpy", "hypothesis",
    "pytest", "psutil", "onnx", "scipy.stats",
)  # fmt: skip

_MOST_MEMORY = 12 * 2**30


class Server:
    """The process that forks.

    Args:
        root: the checkout whose tests run.
        cache: folder of JAX's compilation cache.
    """

    def __init__(self, root: pathlib.Path, cache: pathlib.Path):
        # A mutant that removes a folder above its own removes none but these.
        self._temporary = root.parent / "temporary" / "of" / "mutants"
        self._temporary.mkdir(parents=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self._temporary),
            # BLAS starts its threads when NumPy is imported, and a fork would lack them.
            "OPENBLAS_NUM_THREADS": "1",
            # JAX reads them when it is imported; tests/conftest.py sets the others later.
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def run(self, arguments: list[str], task: dict, cpu_seconds: float, seconds: float) -> tuple[int | str, float]:
        """Runs pytest with `tests.mutation.plugin`, which finds its task in the environment.

        Returns:
            The exit status of pytest, or "time" if a limit ended it, and the seconds of processor time.
        """
        request = {"arguments": arguments, "task": task, "cpu_seconds": cpu_seconds, "seconds": seconds}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that forks is gone, with status {self._process.wait()}")
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True, exist_ok=True)
        return tuple(json.loads(answer))

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def _serve():
    for library in _LIBRARIES:
        if importlib.util.find_spec(library.partition(".")[0]):
            importlib.import_module(library)
    threads = os.listdir("/proc/self/task")
    assert threads == [str(os.getpid())], f"imports have started {len(threads) - 1} threads"
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = os.fork()
        if child == 0:
            _become(request)
        status = _wait(child, request["seconds"])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        answers.write(json.dumps([status, round(used, 2)]) + "\n")
        answers.flush()


def _wait(child, seconds):
    """Waits for a child and then ends what it has started. Returns its status, or "time" if a limit ended it."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid or time.monotonic() > end:
            break
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not pid:
        os.waitpid(child, 0)
        return "time"
    status = os.waitstatus_to_exitcode(status)
    return "time" if status in (-signal.SIGXCPU, -signal.SIGKILL) else status


def _become(request):
    """Runs pytest in the forked process and ends it."""
    os.setpgid(0, 0)
    for descriptor, path in ((0, os.devnull), (1, request["task"]["log"]), (2, request["task"]["log"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    # A mutant that asks for too much memory fails, and other programs keep theirs.
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    limit = int(request["cpu_seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    os.environ["RECU_MUTATION_TASK"] = json.dumps(request["task"])
    import pytest

    status = 70
    try:
        # Libraries that are imported already have plugins, whose assertions pytest can no longer rewrite.
        ours = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.mutation.plugin"]
        status = pytest.main([*ours, "-W", "ignore::pytest.PytestAssertRewriteWarning", *request["arguments"]])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(status))


if __name__ == "__main__":
    _serve()
