"""Defines the `--help` text, the error messages and the exit statuses that all commands share."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from recu_jax import paths
from recu_jax.errors import RunFailed, UserError, one_line

EXIT_USER_ERROR = 2
EXIT_FAILED = 3
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h, "try again later": schedulers restart a job with this status
EXIT_INTERRUPTED = 130  # the shell's convention for Control-C: 128 + 2, the number of SIGINT
EXIT_NO_READER = 141  # the shell's convention for a closed pipe: 128 + 13, the number of SIGPIPE

# Exit statuses of all commands. `--help` and the docs show these texts.
EXIT_STATUSES = {
    0: "finished",
    EXIT_USER_ERROR: "a mistake in the input: an argument, the config, the data, the workdir; the line says what to do",
}
# Additional exit statuses of a training run.
RUN_EXIT_STATUSES = {
    EXIT_FAILED: "the run failed: a loss that is not finite, a full disk, a worker, process or bucket that is gone",
    EXIT_STOPPED: "stopped by SIGTERM, SIGUSR1 or a preemption notice; run the same command again, and it continues",
    EXIT_INTERRUPTED: "stopped by Control-C; run the same command again, and it continues",
}


def help_text(usage: str, about: str, options: str, example: str, of_a_run: bool = False) -> str:
    """Makes the `--help` text of a command.

    Args:
      usage: the command line.
      about: describes the command.
      options: the list of options.
      example: a command line.
      of_a_run: whether to list the exit statuses of a training run too.
    """
    statuses = EXIT_STATUSES | (RUN_EXIT_STATUSES if of_a_run else {})
    listed = "\n".join(f"  {status:<4} {meaning}" for status, meaning in statuses.items())
    return f"usage: {usage}\n\n{about}\n\n{options}\n\nexample:\n  {example}\n\nexit status:\n{listed}\n"


def fail(message: object, status: int = EXIT_USER_ERROR) -> NoReturn:
    """Prints an error as one line and ends the process. Line breaks in the message become spaces."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(status)


def run(function: Callable[[], Any]) -> Any:
    """Calls `function` and returns its result. If it raises UserError or RunFailed, `fail` ends the process."""
    try:
        return function()
    except UserError as error:
        fail(error)
    except RunFailed as error:
        fail(error, EXIT_FAILED)


def local_path(text: str) -> str:
    """Calls `paths.local` on a path. Arguments that are paths have this function as their `type` in argparse."""
    return _typed(paths.local, text)


def run_path(text: str) -> str:
    """Calls `paths.of_run` on a workdir. Arguments that may name a run have this function as their `type`."""
    return _typed(lambda path: paths.of_run(path, "the path"), text)


def _typed(function, text):
    try:
        return function(text)
    except UserError as error:  # it is a ValueError, and argparse replaces the message of one
        raise argparse.ArgumentTypeError(str(error)) from error


def end_with_reader(function: Callable[[], Any]) -> None:
    """Calls `function`. If the reader of stdout ends, as in `recu --help | head -1`, ends the process silently.

    At Control-C, ends the process with one line.
    """
    try:
        try:
            function()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _end_interrupted()
    except BrokenPipeError:
        # Python flushes stdout again at exit. That flush would print another error if stdout were still the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_NO_READER)


@contextlib.contextmanager
def control_c_ends() -> Iterator[None]:
    """Within the block, Control-C ends the process at once, with one line. The block should write no files.

    Otherwise Python would raise KeyboardInterrupt. Modules in C turn this exception into other errors while they are
    imported, and Python ignores it in callbacks, such as JAX's callback of the garbage collector. Outside the main
    thread this function does nothing, because Python sets no signal handlers there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: _end_interrupted())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_interrupted() -> NoReturn:
    print("stopped by SIGINT", file=sys.stderr, flush=True)
    os._exit(EXIT_INTERRUPTED)  # not sys.exit: XLA crashes if the interpreter ends while XLA compiles


class ArgumentParser(argparse.ArgumentParser):
    """A parser that accepts no abbreviated options, prints errors in one line, and shows help by `help_text`."""

    def __init__(self, command: str, about: str, example: str):
        super().__init__(prog=f"recu {command}", allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)
        self._about, self._example = about, example

    def format_help(self) -> str:
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        options = super().format_help().partition("\n\n")[2].strip()
        return help_text(usage, self._about, options, self._example)

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see {self.prog} --help")
