"""Trains or evaluates the network of a config, for `recu_jax.main`, `recu train` and `recu eval`."""

import functools
import logging as std_logging
import os
import sys
import threading

import jax
import ml_collections
from absl import logging

from recu_jax.commands.arguments import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    control_c_ends,
)
from recu_jax.errors import RunFailed, UserError, one_line
from recu_jax.ops import backend

_EXIT_WITHIN_SECONDS = 10


def train_or_evaluate(config: ml_collections.ConfigDict, workdir: str, mode: str, several_processes: bool) -> None:
    """Trains or evaluates, and prints the result.

    After an error or a stop, ends the process with an exit status of `commands.arguments`.

    Args:
      config: of the run.
      workdir: folder of the run, or its address in a bucket.
      mode: "train" or "eval".
      several_processes: whether this process is one of several. `distributed.initialize` says how they connect. May be
        False if JAX_COORDINATOR_ADDRESS is set.

    Raises:
      jax.errors.JaxRuntimeError: JAX fails in a run of one process.
    """
    logging.set_verbosity(logging.WARNING)
    _hush_failed_saves()
    backend.set_xla_flags()
    if config.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    # These imports may initialize a device, so they come after the flags of XLA and JAX are set.
    with control_c_ends():
        from recu_jax.training import distributed, loop
        from recu_jax.training.progress import say
        from recu_jax.training.stopping import Stopped

    try:
        if several_processes or distributed.asked_for():
            distributed.initialize()
        said = _evaluate(loop, config, workdir) if mode == "eval" else _train(loop, config, workdir)
        if distributed.is_main():
            say(said)
        return
    except UserError as error:
        _say(f"error: {error}")
        distributed.leave_last()
        status = EXIT_USER_ERROR
    except RunFailed as error:
        _say(f"error: {error}")
        status = EXIT_FAILED
    except OSError as error:  # for example, the disk is full or was removed
        where = f" ({error.filename})" if error.filename else ""
        _say(f"error: the run stopped: {error.strerror or error}{where}; see to it, and run the same command again")
        status = EXIT_FAILED
    except jax.errors.JaxRuntimeError as error:
        if not distributed.several():
            raise
        _say(f"error: {distributed.others_gone(error)}")
        status = EXIT_FAILED
    except (Stopped, KeyboardInterrupt) as stopped:
        status = _say_stopped(stopped.by if isinstance(stopped, Stopped) else "SIGINT", workdir)
        distributed.leave(together=isinstance(stopped, Stopped) and stopped.together)
    _end(status, distributed.several())


def _train(loop, config, workdir):
    result = loop.train(config, workdir, end_process=functools.partial(_end_stopped, workdir))
    held = f" of {config.held_out} held-out images" if config.held_out else ""
    return (
        f"final test top-1{held} {result.final['test_top1']:.2f}%, best {result.best['test_top1']:.2f}% (epoch "
        f"{result.best['epoch']}); workdir {workdir}"
    )


def _evaluate(loop, config, workdir):
    from recu_jax.training import distributed
    from recu_jax.training.progress import say

    if distributed.is_main():
        say(f"{config.model} on {config.dataset}; workdir {workdir}; reading the images, and compiling")
    m = loop.evaluate(config, workdir)
    return (
        f"best checkpoint (epoch {m['epoch']}): test top-1 {m['test_top1']:.2f}%, top-5 {m['test_top5']:.2f}%, "
        f"loss {m['test_loss']:.4f} on {m['test_images']} test images; workdir {workdir}"
    )


def _say_stopped(by, workdir):
    """Prints that the run was stopped, and how it continues. Returns the exit status."""
    from recu_jax.training import bucket
    from recu_jax.training.checkpoint import saved

    where = bucket.folder_of(workdir)
    kept = saved(where)
    how = "the same command starts anew: nothing is saved yet"
    if kept:
        how = f"the same command continues from step {kept[-1].step}, saved in {where}"
        if _is_finished(kept[-1]):
            how = f"the run in {where} is finished"
    _say(f"stopped by {by}; {how}")
    return EXIT_INTERRUPTED if by == "SIGINT" else EXIT_STOPPED


def _is_finished(checkpoint):
    from recu_jax.training.checkpoint import Damaged

    try:
        record = checkpoint.record
    except Damaged:
        return False
    done = 0 if record.get("unfinished_epoch") else record.get("metrics", {}).get("epoch")
    return done == record["config"].get("epochs")


def _end_stopped(workdir, by):
    _end(_say_stopped(by, workdir), several_processes=False)


def _say(message):
    from recu_jax.training.progress import say

    say(one_line(message), sys.stderr)


def _hush_failed_saves() -> None:
    """Suppresses the tracebacks that Orbax, asyncio and TensorStore print when a save or a read fails.

    The failure is also raised as an exception, so these tracebacks only repeat it.
    """
    logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
    std_logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    show = sys.unraisablehook
    # After a failed write TensorStore still notifies waiting tasks. Their event loop is already closed, and Python
    # would print "Event loop is closed".
    sys.unraisablehook = lambda caught: None if str(caught.exc_value) == "Event loop is closed" else show(caught)


def _end(status: int, several_processes: bool) -> None:
    """Ends the process, even if other threads still run."""
    sys.stdout.flush()
    if status == EXIT_FAILED and not several_processes:
        # A normal exit lets Python remove the shared memory of the workers. If a thread hangs, the timer ends the
        # process.
        watchdog = threading.Timer(_EXIT_WITHIN_SECONDS, os._exit, [status])
        watchdog.daemon = True
        watchdog.start()
        sys.exit(status)
    # `sys.exit` is not enough. XLA may still run or compile a step, and it crashes if the interpreter ends meanwhile. A
    # thread that hangs, or that waits for an ended process, would keep the process alive.
    os._exit(status)
