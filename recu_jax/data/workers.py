"""Worker processes by Grain: batches made ahead of time and in order, by processes that end when they should."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from recu_jax.data import images
from recu_jax.errors import require

# Batches each worker has ready, beside the one that it makes; as many more wait in the main process.
_READY = 2
_SHARED_FROM = 1 << 16  # bytes; not the labels


def check_installed() -> None:
    """Raises UserError if a package that decodes or has the workers is missing."""
    require("imagenet", "cv2", "grain", "PIL")


def reader(make_batch: Callable[[int], dict], nbytes: int, start: int, end: int, num_workers: int) -> Any:
    """Grain's iterator over `make_batch(step)` of the steps [start, end), in order.

    Args:
      make_batch: picklable.
      nbytes: size of a batch.
      start, end: steps.
      num_workers: processes; 0 makes batches in threads of this one.

    Raises:
      UserError: a package is missing.
    """
    check_installed()
    import grain
    from absl import flags

    # A thread each is enough to fill a worker; without workers OpenCV decodes in threads, free of Python's lock.
    threads = 1 if num_workers else min(os.cpu_count() or 1, 4)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    batches = grain.MapDataset.range(start, end).map(make_batch).to_iter_dataset(options)
    if num_workers:
        # Images go through shared memory where there is room, otherwise through pipes: a full /dev/shm, of 64 MB in a
        # container unless asked otherwise, kills the workers.
        room = _free_shared_memory() > num_workers * (2 * _READY + 2) * nbytes
        shared = grain.experimental.DatasetOptions(min_shm_size=_SHARED_FROM if room else sys.maxsize)
        batches = grain.experimental.WithOptionsIterDataset(batches, shared)
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain 0.2.18 reads its flags, and raises in programs without absl's
        workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_READY)
        batches = batches.mp_prefetch(workers, worker_init_fn=_start_worker)
    else:
        images.quiet_opencv()
    return iter(batches)


def _free_shared_memory():
    try:
        disk = os.statvfs("/dev/shm")
    except OSError:  # macOS has none, and no such limit
        return sys.maxsize
    return disk.f_bavail * disk.f_frsize


def _start_worker(index, count):
    # Control-C and a cluster's SIGTERM go to all processes; the main one decides what becomes of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    images.quiet_opencv()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
