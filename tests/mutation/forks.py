"""Runs pytest in forks of a process that has imported the libraries, but nothing of recu_jax.

Otherwise each mutant would need the imports again. They take as long as most of its tests.
"""

import contextlib
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

from tests.support import COMPILATION_CACHE
from tests.support.forking import ONE_THREAD, import_installed, redirect

# Libraries that recu_jax and its tests import.
_LIBRARIES = (
    "jax", "jax.export", "jax.experimental.checkify", "jax.experimental.multihost_utils", "flax.linen", "flax.nnx",
    "optax", "orbax.checkpoint", "grain.python", "sklearn.datasets", "ml_collections", "tensorboardX", "rich.table",
    "tensorflow_datasets", "cv2", "PIL.Image", "absl.flags", "absl.app", "tqdm", "safetensors.numpy", "hypothesis",
    "pytest", "psutil", "onnx", "scipy.stats",
)  # fmt: skip

_MOST_MEMORY = 12 * 2**30


class Server:
    """A process that forks itself for each call of pytest.

    Args:
        root: the checkout whose tests run.
        cache: folder of JAX's compilation cache.
    """

    def __init__(self, root: pathlib.Path, cache: pathlib.Path):
        # If a mutant removes folders above its temporary folder, these nested folders are all that it removes.
        self._temporary = root.parent / "temporary" / "of" / "mutants"
        self._temporary.mkdir(parents=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self._temporary),
            ONE_THREAD: "1",
            # JAX reads these variables when it is imported. tests/conftest.py sets the others later.
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            **COMPILATION_CACHE,
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
    import_installed(_LIBRARIES)
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
    """Waits for a child, and then kills the processes that the child has started.

    Returns the exit status of the child, or "time" if a limit on time ended the child.
    """
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
    redirect([request["task"]["log"]] * 2)
    # A mutant that asks for too much memory fails, and other programs keep theirs.
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    limit = int(request["cpu_seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    os.environ["RECU_MUTATION_TASK"] = json.dumps(request["task"])
    import pytest

    status = 70
    try:
        # Some of the imported libraries have pytest plugins. Pytest warns that it can no longer rewrite their
        # assertions.
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
