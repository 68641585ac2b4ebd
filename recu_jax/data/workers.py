"""Starts Grain's worker processes. They make batches ahead of time and in order, and end with their parent process."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from recu_jax.data import images
from recu_jax.errors import require

# Number of finished batches that each worker keeps. The main process keeps as many for each worker.
_READY = 2
_SHARED_FROM = 1 << 16  # arrays of at least this many bytes use shared memory: images do, labels do not


def check_installed() -> None:
    """Raises UserError if OpenCV, Grain or Pillow is not installed."""
    require("cv2", "grain", "PIL", extra="data")


def reader(make_batch: Callable[[int], dict], nbytes: int, start: int, end: int, num_workers: int) -> Any:
    """Makes Grain's iterator over the batches `make_batch(step)` of the steps [start, end), in order.

    Args:
      make_batch: makes the batch of a step. It must be picklable.
      nbytes: size of a batch's images, in bytes.
      start: first step.
      end: one more than the last step.
      num_workers: number of worker processes. With 0, threads of this process make the batches.

    Raises:
      UserError: a package is missing.
    """
    check_installed()
    import grain
    from absl import flags

    # A worker needs one thread only. Without workers, several threads decode in parallel, since OpenCV releases
    # Python's global lock.
    threads = 1 if num_workers else min(os.cpu_count() or 1, 4)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    batches = grain.MapDataset.range(start, end).map(make_batch).to_iter_dataset(options)
    if num_workers:
        # Workers send images through shared memory, /dev/shm, only if its free space is enough for all images that can
        # be there at once. Otherwise they use pipes, because the system kills a worker that writes to a full /dev/shm.
        # Containers have 64 MB of /dev/shm by default.
        room = _free_shared_memory() > num_workers * (2 * _READY + 2) * nbytes
        shared = grain.experimental.DatasetOptions(min_shm_size=_SHARED_FROM if room else sys.maxsize)
        batches = grain.experimental.WithOptionsIterDataset(batches, shared)
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain 0.2.18 reads absl's flags, and raises if a program did not parse them
        workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_READY)
        batches = batches.mp_prefetch(workers, worker_init_fn=_start_worker)
    else:
        images.quiet_opencv()
    return iter(batches)


def leave_stop_signals_to_other_threads() -> None:
    """Blocks Control-C and SIGTERM in this thread. Worker processes that this thread starts inherit the block.

    Control-C on a terminal and a cluster's SIGTERM reach all processes. A program that saves its work before it stops
    needs its workers until the work is saved. A handler that the worker sets itself is too late: a worker imports JAX
    for seconds before it runs any code of recu_jax.
    """
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        # Start the resource tracker before the signals are blocked. Otherwise Python starts it with the first worker,
        # and then unblocks these signals.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


def _free_shared_memory():
    try:
        disk = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # macOS has no /dev/shm, Windows no statvfs; neither has such a limit
        return sys.maxsize
    return disk.f_bavail * disk.f_frsize


def _start_worker(index, count):
    # Control-C and a cluster's SIGTERM reach all processes. Workers ignore them; the main process stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    images.quiet_opencv()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
