"""Runs commands in forked processes. Their parent has already imported the modules, which saves seconds per command.

Each command has a real exit status, real streams and real files. Only the imports happen earlier, in the parent. The
parent uses no device. It must have only one thread, because a forked process would lack the others:
`import_installed` checks this.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from tests.support import ROOT
from tests.support.commands import SECONDS, module_and_arguments
from tests.support.forking import ONE_THREAD, import_installed, redirect

# Modules that a parent imports, if they are installed: `OF_TORCH` for commands that read files of PyTorch, and `OF_ALL`
# for all other commands. There are two parents, because PyTorch brings its own OpenMP.
OF_ALL = (
    "recu_jax.training.loop",
    "recu_jax.report.live",
    "cv2",
    "PIL.Image",
    "grain.python",
    "tensorflow_datasets",
    "sklearn",
)
OF_TORCH = ("recu_jax.training.loop", "torch")
_servers: dict[tuple[str, ...], subprocess.Popen] = {}


@dataclasses.dataclass(frozen=True)
class Ended:
    status: int
    stdout: str
    stderr: str


def run(command: str | None, arguments: list[str], torch: bool = False, without: str | None = None) -> Ended:
    """Runs a command as `commands.run` does, but always on one device and in the root of the repository.

    The module named `without` cannot be imported, as if its package were not installed.
    """
    server = _server(OF_TORCH if torch else OF_ALL)
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        server.stdin.write(json.dumps([*module_and_arguments(command, arguments), without, *files]) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that forks is gone, with status {server.wait()}"
        return Ended(int(answer), *(pathlib.Path(file).read_text() for file in files))


def _server(modules):
    """Returns the process that has imported `modules` and forks. Starts it if it does not run."""
    if modules not in _servers or _servers[modules].poll() is not None:
        _servers[modules] = _start(modules)
    return _servers[modules]


def _start(modules):
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), ONE_THREAD: "1"}
    command = [sys.executable, "-m", __name__, *modules]
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(_end, server)
    return server


def _end(server):
    for stream in (server.stdin, server.stdout):
        with contextlib.suppress(BrokenPipeError):
            stream.close()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _serve(modules):
    """Forks once for each line of stdin. Returns only in a forked process: the module and arguments that it runs."""
    import_installed(modules)
    del os.environ[ONE_THREAD]
    for line in sys.stdin:
        module, arguments, without, *files = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(files)
            if without:
                sys.modules[without] = None  # `import` and `find_spec` then find no such module
            return module, arguments
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(files):
    """Gives a forked process its own output files, an empty stdin, and an alarm that ends it after `SECONDS`."""
    import signal

    redirect(files)
    signal.alarm(SECONDS)


if __name__ == "__main__":
    import runpy

    name, given = _serve(sys.argv[1:])
    # `python -m` also puts the working directory first.
    sys.path[0] = os.getcwd()
    sys.argv = [name, *given]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
