"""The command line: `python -m recu_jax.main --config=configs/digits.py [--workdir=DIR] [--mode=train|eval]`.

Any field is changed by `--config.FIELD=VALUE`. The same command continues a run that was stopped. It ends with status

- 0: finished.
- 2: a mistake in the input: config, data, workdir, checkpoints; the line says what to do.
- 3: the run failed: a loss that is not finite, a full disk, an input worker or another process that is gone.
- 75: stopped by SIGTERM, SIGUSR1 or a preemption notice, everything saved: run the same command again.
- 130: the same, by Control-C.
"""

import logging as std_logging
import os
import sys
import threading

import jax
from absl import app, flags, logging

from recu_jax import backend, config_flag
from recu_jax.command_line import EXIT_FAILED, EXIT_USER_ERROR
from recu_jax.errors import RunFailed, UserError, one_line

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/NAME for --config=.../NAME.py.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate the best checkpoint.")
_EXIT_WITHIN_SECONDS = 10
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process of several; addresses come from the environment, see the README."
)


def _hush_failed_saves() -> None:
    """A save or read that fails comes back as one error; not also as screens of tracebacks, one of each part of it."""
    logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
    std_logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    show = sys.unraisablehook
    # TensorStore tells its writers, who were given up, that they failed too.
    sys.unraisablehook = lambda caught: None if str(caught.exc_value) == "Event loop is closed" else show(caught)


def main(argv: list[str]) -> None:
    del argv
    config = _CONFIG.value
    workdir = _WORKDIR.value or config_flag.default_workdir()
    logging.set_verbosity(logging.WARNING)
    _hush_failed_saves()
    backend.set_xla_flags()
    if config.get("dtype") == "float64":
        jax.config.update("jax_enable_x64", True)
    # After the flags: these import what may touch a device.
    from recu_jax import distributed, loop
    from recu_jax.checkpoint import saved
    from recu_jax.stopping import EXIT_INTERRUPTED, Stopped

    def say(message):
        print(one_line(message), file=sys.stderr, flush=True)

    try:
        if _DISTRIBUTED.value or distributed.asked_for():
            distributed.initialize()
        said = _evaluate(loop, config, workdir) if _MODE.value == "eval" else _train(loop, config, workdir)
        if distributed.is_main():
            print(said)
        return
    except UserError as error:
        say(f"error: {error}")
        distributed.leave_last()
        status = EXIT_USER_ERROR
    except RunFailed as error:
        say(f"error: {error}")
        status = EXIT_FAILED
    except OSError as error:  # a disk that is full, or gone, wherever it was met
        where = f" ({error.filename})" if error.filename else ""
        say(f"error: the run stopped: {error.strerror or error}{where}; see to it, and run the same command again")
        status = EXIT_FAILED
    except jax.errors.JaxRuntimeError as error:
        if not distributed.several():
            raise
        say(f"error: {distributed.others_gone(error)}")
        status = EXIT_FAILED
    except (Stopped, KeyboardInterrupt) as stopped:
        kept = saved(workdir)
        how = (
            f"continues from step {kept[-1].step}, saved in {workdir}" if kept else "starts anew: nothing is saved yet"
        )
        by, status = (stopped.by, stopped.exit_status) if isinstance(stopped, Stopped) else ("SIGINT", EXIT_INTERRUPTED)
        say(f"stopped by {by}; the same command {how}")
        distributed.leave(together=isinstance(stopped, Stopped) and stopped.together)
    sys.stdout.flush()
    if status == EXIT_FAILED and not distributed.several():
        # The way on which Python puts away what workers left behind; unless a thread hangs there, too.
        watchdog = threading.Timer(_EXIT_WITHIN_SECONDS, os._exit, [status])
        watchdog.daemon = True
        watchdog.start()
        sys.exit(status)
    # Not sys.exit: XLA may still run a step or compile one, and crashes when the interpreter goes away meanwhile; and a
    # thread that hangs, or waits for processes that are gone, would hold the program.
    os._exit(status)


def _evaluate(loop, config, workdir):
    m = loop.evaluate(config, workdir)
    return (
        f"best checkpoint (epoch {m['epoch']}): test top-1 {m['test_top1']:.2f}%, top-5 {m['test_top5']:.2f}%, "
        f"loss {m['test_loss']:.4f} on {m['test_images']} images; workdir {workdir}"
    )


def _train(loop, config, workdir):
    result = loop.train(config, workdir)
    return (
        f"final test top-1 {result.final['test_top1']:.2f}%, best {result.best['test_top1']:.2f}% (epoch "
        f"{result.best['epoch']}); workdir {workdir}"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse)
