"""What a run shows while it trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Progress over all epochs of a run.

    On a terminal one bar an epoch with loss, top-1, rate and time left of the epoch; elsewhere a line every
    `log_every_steps` steps. `silent` shows nothing. Both are followed by the epoch's result, with the time left of
    the run.
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
        self._bar = None
        self._epochs_done = 0
        self._began = time.monotonic()

    def start_epoch(self, epoch: int, done: int = 0) -> None:
        """Called before the first step of `epoch`, counted from 1, of which an earlier process did `done` steps."""
        self._epoch, self._first, self._step, self._shown = epoch, done, done, done
        self._epoch_began = time.monotonic()
        if self._terminal and not self._silent:
            self._bar = tqdm(
                total=self._steps_per_epoch * self._batch_size, desc=f"epoch {epoch}/{self._total_epochs}", unit="img",
                initial=done * self._batch_size, leave=False, dynamic_ncols=True,
            )  # fmt: skip

    def due(self, steps: int) -> bool:
        """Whether `steps` more steps call for fresh numbers, which cost a wait for the device."""
        return self._step + steps - self._shown >= self._every

    def advance(self, steps: int, loss: float | None = None, top1: float | None = None) -> None:
        """`steps` steps are done; `loss` and `top1` (percent) where `due` asked for them."""
        self._step += steps
        if self._bar is not None:
            self._bar.update(steps * self._batch_size)
        if loss is None:
            return
        self._shown = self._step
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, top-1 {top1:.1f}%")
            return
        if self._silent:
            return
        seconds = time.monotonic() - self._epoch_began
        rate = (self._step - self._first) * self._batch_size / seconds
        left = (self._steps_per_epoch - self._step) * self._batch_size / rate
        print(
            f"epoch {self._epoch}/{self._total_epochs}, step {self._step}/{self._steps_per_epoch}: loss {loss:.3f}, "
            f"top-1 {top1:.1f}%, {rate:.0f} images/s, {_clock(left)} left in this epoch",
            flush=True,
        )

    def end_epoch(self, row: dict[str, float]) -> None:
        """Prints the result of the epoch, `row` as in metrics.jsonl."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._silent:
            return
        self._epochs_done += 1
        mean = (time.monotonic() - self._began) / self._epochs_done
        left = (self._total_epochs - row["epoch"]) * mean
        finish = time.strftime("%H:%M", time.localtime(time.time() + left))
        print(
            f"epoch {row['epoch']}/{self._total_epochs}: train loss {row['train_loss']:.3f}, top-1 "
            f"{row['train_top1']:.2f}%; test loss {row['test_loss']:.3f}, top-1 {row['test_top1']:.2f}%; "
            f"{row['images_per_second']:.0f} images/s" + (f"; {_clock(left)} left, until {finish}" if left else ""),
            flush=True,
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
