"""Shows the progress of a training run: a bar on a terminal, plain lines elsewhere."""

import math
import os
import sys
import textwrap
import threading
import time
from typing import Any

from tqdm import tqdm

from recu_jax.training import distributed

# If `log_every_steps` steps take longer than this, the bar moves after about `_BAR_SECONDS`, and without a terminal a
# line is printed after about `_LINE_SECONDS`.
_BAR_SECONDS, _LINE_SECONDS = 1.0, 30.0


def say(line: str, file: Any = None) -> None:
    """Prints `line` to `file` (default: stdout) and flushes it. A progress bar on the screen stays below the line.

    If `file` is a terminal, a line longer than the terminal's width is broken between words.
    """
    file = file or sys.stdout
    if file.isatty():
        line = _broken(line, file)
    tqdm.write(line, file=file)
    file.flush()


def _broken(line: str, file: Any) -> str:
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except OSError:  # `file` only imitates a terminal
        return line
    # Paths stay whole, so that they can be copied. Some terminals report a width of 0.
    return textwrap.fill(line, columns or 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def close_bars() -> None:
    """Removes all bars from the terminal, for a process that ends now."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


class _Bar(tqdm):
    """A bar that counts images, and shows loss and top-1 of the last displayed step, the speed and the time left.

    The bar fits 80 columns; a bar in tqdm's own format does not.
    """

    FORMAT = "{desc}:{percentage:4.0f}%|{bar}| {state}"
    # `doing`: what the run does while it runs no steps. `since`: when that began. `shown`: loss and top-1 of the last
    # displayed step.
    doing, since, shown = "", 0.0, ""

    @property
    def format_dict(self) -> dict[str, Any]:
        d = super().format_dict
        # Leave two columns free for the ^C that a terminal prints behind the bar. tqdm itself leaves one column free.
        d["ncols"] = d["ncols"] and d["ncols"] - 1
        if self.doing:
            return d | {"state": f"{self.doing}, {_clock(time.monotonic() - self.since)}"}
        rate = d["rate"] or (d["n"] - d["initial"]) / max(d["elapsed"], 1e-9)
        pace = f"{_rounded(rate)} images/s, {_clock((d['total'] - d['n']) / rate)} left" if rate else ""
        return d | {"state": ", ".join(filter(None, [self.shown, pace])) or "training"}

    def do(self, what: str, since: float) -> None:
        """Shows what the run does while it runs no steps, and each second for how long it has done so.

        Args:
          what: what the run does; empty if it runs steps again.
          since: when this began, in seconds of `time.monotonic`.
        """
        self.doing, self.since = what, since
        self.refresh()
        if what:
            threading.Thread(target=self._tick, args=[what], daemon=True).start()

    def _tick(self, what: str) -> None:
        while self.doing == what and not self.disable:
            time.sleep(_BAR_SECONDS)
            with self.get_lock():  # so that nothing is drawn after `close`
                if self.doing == what and not self.disable:
                    self.refresh()


class Progress:
    """Progress over all epochs of a run.

    On a terminal, each epoch has a bar with loss, top-1, images per second and the time left in the epoch. The bar
    moves every `log_every_steps` steps, or every second if these steps take longer. Elsewhere, a line with the same
    numbers is printed every `log_every_steps` steps, or every 30 seconds if these steps take longer. With several
    processes, numbers are shown only every `log_every_steps` steps. After each epoch, a line with its result and the
    time left in the run is printed. Rates and times left exclude compilations. Compilations are announced, since they
    take long. With `silent`, nothing is shown.
    """

    def __init__(
        self, total_epochs: int, steps_per_epoch: int, batch_size: int, log_every_steps: int, silent: bool = False
    ):
        self._silent = silent
        self._total_epochs = total_epochs
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._every = log_every_steps
        self._terminal = sys.stderr.isatty()
        self._bar: _Bar | None = None
        # Number of epochs that this process finished after its first, and the time when its first epoch ended.
        self._epochs_done = 0
        self._ended_first: float | None = None
        self._compiled = self._tested = False
        # Infinite until it is measured. Until then, `due` lets the bar show every dispatch.
        self._seconds_per_step = math.inf
        self._epoch_began = self._shown_at = time.monotonic()

    def start_epoch(self, epoch: int, done: int = 0, since: float | None = None) -> None:
        """Starts the display of an epoch. Call it before the first step.

        Args:
          epoch: counted from 1.
          done: number of steps of this epoch that an earlier process did.
          since: the start of the compilation, in seconds of `time.monotonic`. Default: now.
        """
        self._epoch, self._step, self._shown = epoch, done, done
        self._first: int | None = done
        self._epoch_began = self._shown_at = time.monotonic()
        if self._terminal and not self._silent:
            self._bar = _Bar(
                total=self._steps_per_epoch * self._batch_size, desc=f"epoch {epoch}/{self._total_epochs}",
                initial=done * self._batch_size, leave=False, dynamic_ncols=True, miniters=1, bar_format=_Bar.FORMAT,
                delay=1e-9,  # above 0, so that tqdm does not draw the bar before `_do` says what to show
            )  # fmt: skip
            self._do("" if self._compiled else "compiling", since)

    def compiled(self, since: float) -> None:
        """Announces that the first dispatch of the process, which includes the compilation, is done.

        Args:
          since: the start of the compilation, in seconds of `time.monotonic`.
        """
        now = time.monotonic()
        self._compiled = True
        self._do("")
        self._say(f"compiled, and the first step done, in {now - since:.0f} s")
        self._epoch_began = self._shown_at = now
        # The rate excludes the first dispatch, which includes the compilation. `advance` sets the new starting step.
        self._first = None
        if self._bar is not None:
            self._bar.unpause()

    def due(self, steps: int) -> bool:
        """Returns whether to show loss and top-1 after `steps` more steps. The host must wait to fetch them."""
        not_shown = self._step + steps - self._shown
        if not_shown >= self._every:
            return True
        # All processes must fetch at the same steps, but the clocks below differ between processes. A process that
        # fetches a loss that is not finite stops. Processes that did not fetch it would wait for this process.
        if distributed.several():
            return False
        if self._bar is None:
            return time.monotonic() - self._shown_at >= _LINE_SECONDS
        # The measured time per step is used, not the time since the last fetch: the host runs ahead of the devices, so
        # that time does not tell how many steps the devices have done.
        return not_shown * self._seconds_per_step >= _BAR_SECONDS

    def advance(self, steps: int, loss: float | None = None, top1: float | None = None) -> None:
        """Counts the steps of a dispatch. Moves the bar, or prints a line, if loss and top-1 are given.

        Args:
          steps: number of steps in the dispatch.
          loss: of the last step. Given together with `top1` if `due` returned True.
          top1: of the last step, in percent.
        """
        self._step += steps
        if self._bar is not None:
            self._bar.doing = ""
        now = time.monotonic()
        if self._first is None:
            self._first = self._step
            if self._bar is not None:
                # These three values move the bar and exclude the first dispatch from tqdm's rate.
                self._bar.initial = self._bar.last_print_n = self._bar.n = self._step * self._batch_size
                self._bar.refresh()
        elif loss is not None:
            self._seconds_per_step = (now - self._shown_at) / (self._step - max(self._shown, self._first))
        if loss is None:
            # The devices may still be computing these steps, so the bar does not count them yet.
            return
        self._shown, self._shown_at = self._step, now
        if self._bar is not None:
            self._bar.shown = f"loss {loss:.3f}, top-1 {top1:.1f}%"
            self._bar.update(self._step * self._batch_size - self._bar.n)
            self._bar.refresh()
            return
        self._say(
            f"epoch {self._epoch}/{self._total_epochs}, step {self._step}/{self._steps_per_epoch}: loss {loss:.3f}, "
            f"top-1 {top1:.1f}%{self._pace()}"
        )

    def testing(self) -> None:
        """Shows that the evaluation runs. In the first epoch of a process the evaluation is compiled first."""
        compiles = "" if self._tested else "; compiling"
        if self._bar is not None:
            self._bar.n = self._bar.total
            self._do(f"testing{compiles}")
        elif compiles:
            self._say(f"epoch {self._epoch}/{self._total_epochs}: all steps done; testing{compiles}")

    def end_epoch(self, row: dict[str, float]) -> None:
        """Prints the result of the epoch. `row` is its row of metrics.jsonl."""
        self.close()
        self._tested = True
        now = time.monotonic()
        if self._ended_first is None:
            # The first epoch of a process also compiles the evaluation and the diagnostics. So only the time of its
            # steps is used for the time left.
            images = self._steps_per_epoch * self._batch_size
            mean = images / row["images_per_second"] if row["images_per_second"] else 0.0
            # If an earlier process did all steps of this epoch, nothing was compiled. The next epoch compiles the step,
            # and is then treated as the first.
            self._ended_first = now if self._compiled else None
        else:
            self._epochs_done += 1
            mean = (now - self._ended_first) / self._epochs_done
        left = (self._total_epochs - row["epoch"]) * mean
        finish = time.strftime("%H:%M", time.localtime(time.time() + left))
        raw = f" (without averaging {row['raw_test_top1']:.2f}%)" if "raw_test_top1" in row else ""
        self._say(
            f"epoch {row['epoch']}/{self._total_epochs}: train loss {row['train_loss']:.3f}, top-1 "
            f"{row['train_top1']:.2f}%; test loss {row['test_loss']:.3f}, top-1 {row['test_top1']:.2f}%{raw}"
            + (f"; {_rounded(row['images_per_second'])} images/s" if row["images_per_second"] else "")
            + (f"; {_clock(left)} left, until {finish}" if left else "")
        )

    def close(self) -> None:
        """Removes the bar, so that the next output starts on its own line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _do(self, what: str, since: float | None = None) -> None:
        if self._bar is not None:
            self._bar.do(what, time.monotonic() if since is None else since)

    def _pace(self) -> str:
        done = self._step - (self._first or 0)
        seconds = time.monotonic() - self._epoch_began
        if not done or seconds <= 0:
            return ""
        rate = done * self._batch_size / seconds
        left = (self._steps_per_epoch - self._step) * self._batch_size / rate
        return f", {_rounded(rate)} images/s, {_clock(left)} left in this epoch"

    def _say(self, line: str) -> None:
        if not self._silent:
            say(line)


def _rounded(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
