"""Times recu_jax's training images, from encoded file to batch, against the same pipeline in Pillow.

    python experiments/benchmarks/input_pipeline.py --data_dir=$HOME/tensorflow_datasets --out=input_pipeline.json

Both sides read the same records in the same order, draw the same crops, run in as many Grain worker processes, and
yield uint8 batches of the same shape. They differ in what they do to an image:

- recu_jax uses `recu_jax.data.transform`: OpenCV decodes the rows down to the end of the crop, resizes and flips.
- pillow opens the image, converts it to RGB, crops, resizes with the antialiased BILINEAR filter and flips, as
  torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` do with PIL images. It does not import torchvision.

The sides take turns (recu_jax, pillow, recu_jax, ...), so that a busy machine slows both. Meanwhile the workers of the
other side sleep on full buffers. A turn begins when all buffers are full and all workers sleep. It first takes as many
batches as may be ready, untimed. Each pair of successive turns gives a ratio of throughputs and a ratio of processor
times (main process and workers). The medians over the pairs are reported. Other load on the machine changes the second
ratio less. The script then measures the throughput of recu_jax with 0 to --num_workers workers, and how much memory
recu_jax's processes gain over 20,000 images. Needs Linux: the script reads /proc to tell whether other processes
disturbed the comparison.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.benchmarks.turns import machine_busy_seconds, spread, when_and_where
from recu_jax.data import photos, stream
from recu_jax.data.transform import Transform, random_box

SIDES = ("recu_jax", "pillow")
# At most this many batches per worker wait, in the buffers of the workers and of the main process together.
READY_BATCHES = 8
LOOK_EVERY_SECONDS = 0.5
MAX_SHARE_OF_OTHERS = 0.05
WORKER_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class PillowTransform(Transform):
    """Crops and flips as `Transform` does, but with Pillow."""

    def train(self, data: bytes, rng: np.random.Generator) -> np.ndarray:
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGB")
        top, left, height, width = random_box(rng, image.height, image.width, self.area, self.ratio)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)


class Side:
    """One side: an endless stream of training batches whose workers have started."""

    def __init__(self, records, transform, arguments, num_workers):
        self._arguments = arguments
        self._ready = READY_BATCHES * max(num_workers, 1)
        before = {child.pid for child in multiprocessing.active_children()}
        self._batches = stream.train_batches(
            records,
            seed=0,
            batch_size=arguments.batch_size,
            epochs=1_000_000,
            transform=transform,
            num_workers=num_workers,
        )
        for _ in range(max(num_workers, 1)):  # after a batch of each worker, all have started
            next(self._batches)
        self._workers = {child.pid for child in multiprocessing.active_children()} - before
        if len(self._workers) != num_workers:
            raise RuntimeError(f"{len(self._workers)} of {num_workers} workers are running")
        self.close = self._batches.close

    def next(self):
        return next(self._batches)

    def resident_bytes(self):
        """Returns the resident memory of the main process and the workers."""
        pids = [os.getpid(), *self._workers]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")

    def wait_until_asleep(self):
        """Waits until the workers have filled their buffers, which takes 2 s after a turn."""
        asleep = 0
        while asleep < 2:
            before = self._worker_seconds()
            time.sleep(LOOK_EVERY_SECONDS)
            asleep = asleep + 1 if self._worker_seconds() - before < 0.02 * LOOK_EVERY_SECONDS else 0

    def turn(self):
        """Returns images a second, processor time per image, and the share of the CPUs that other processes took."""
        for _ in range(self._ready):
            next(self._batches)
        images = self._arguments.batches * self._arguments.batch_size
        busy, own = machine_busy_seconds(), self._busy_seconds()
        begin = time.perf_counter()
        for _ in range(self._arguments.batches):
            next(self._batches)
        seconds = time.perf_counter() - begin
        busy, own = machine_busy_seconds() - busy, self._busy_seconds() - own
        return {
            "images_per_second": images / seconds,
            "cpu_ms_per_image": 1000 * own / images,
            "share_of_others": max(0.0, (busy - own) / (seconds * os.cpu_count())),
        }

    def _busy_seconds(self):
        return time.process_time() + self._worker_seconds()

    def _worker_seconds(self):
        # `(~pid << 3) | 2` is the id of a process's CPU clock on Linux. /proc/PID/stat has only whole ticks of 10 ms,
        # too coarse to tell whether a worker sleeps.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self._workers)


def compare(records, arguments):
    """Returns the turns of both sides."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for name, transform in {"recu_jax": Transform(), "pillow": PillowTransform()}.items():
            sides[name] = Side(records, transform, arguments, arguments.num_workers)
            stack.callback(sides[name].close)
        turns = {name: [] for name in SIDES}
        for _ in range(arguments.repeats):
            for name in SIDES:
                for side in sides.values():
                    side.wait_until_asleep()
                turns[name].append(sides[name].turn())
        return turns


def summarize(turns):
    """Returns median, minimum and maximum for each side, and for the ratios of each pair of turns."""
    rates, costs = (
        {side: [t[key] for t in turns[side]] for side in SIDES} for key in ("images_per_second", "cpu_ms_per_image")
    )
    return {
        "images_per_second": {side: spread(values) for side, values in rates.items()},
        "cpu_ms_per_image": {side: spread(values) for side, values in costs.items()},
        "throughput_recu_jax_to_pillow": ratio(rates["recu_jax"], rates["pillow"]),
        "cpu_time_pillow_to_recu_jax": ratio(costs["pillow"], costs["recu_jax"]),
        "largest_share_of_others": max(t["share_of_others"] for side in SIDES for t in turns[side]),
    }


def ratio(above, below):
    return spread([a / b for a, b in zip(above, below, strict=True)])


def by_workers(records, arguments):
    """Returns the images a second of recu_jax with 0 to --num_workers workers: all repeats, by number of workers."""
    rates = {n: [] for n in range(arguments.num_workers + 1)}
    for _ in range(WORKER_REPEATS):
        for num_workers in rates:
            with contextlib.closing(Side(records, Transform(), arguments, num_workers)) as side:
                rates[num_workers].append(side.turn()["images_per_second"])
    return rates


def growth(records, arguments):
    """Returns the bytes by which the main process and at most two workers grow from image 2,000 to image 22,000."""
    with contextlib.closing(Side(records, Transform(), arguments, min(2, arguments.num_workers))) as side:
        batches, sizes = -(-2000 // arguments.batch_size), []
        for count in (batches, 10 * batches):
            for _ in range(count):
                side.next()
            sizes.append(side.resident_bytes())
    return sizes[1] - sizes[0]


def parse_arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="imagenet2012", choices=photos.NAMES)
    parser.add_argument("--data_dir", metavar="DIR")
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--num_workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=9, help="turns of each side")
    parser.add_argument("--batches", type=int, default=24, help="timed batches in one turn")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser.parse_args(given)


def measure(arguments):
    """Measures the pipelines. Returns the record for the file `--out`."""
    records = photos.load(arguments.dataset, arguments.data_dir).train
    load = os.getloadavg()[0]
    turns = compare(records, arguments)
    summary = summarize(turns)
    names = ("grain", "opencv-python-headless", "pillow", "array_record", "numpy")
    result = {
        **when_and_where(),
        "load_average_before": load,
        "dataset": arguments.dataset,
        "images": len(records),
        "mean_bytes": statistics.mean(len(records.read(i)[0]) for i in range(min(len(records), 1000))),
        "batch_size": arguments.batch_size,
        "num_workers": arguments.num_workers,
        "batches_per_turn": arguments.batches,
        "versions": {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names},
        **summary,
        "turns": turns,
    }
    rates = by_workers(records, arguments)
    result["recu_jax_images_per_second_by_workers"] = {n: statistics.median(r) for n, r in rates.items()}
    if 2 in rates:
        result["two_workers_to_one"] = ratio(rates[2], rates[1])
    result["growth_over_20000_images_bytes"] = growth(records, arguments)
    return result


def main():
    arguments = parse_arguments()
    result = summary = measure(arguments)
    for side, rate in summary["images_per_second"].items():
        cpu = summary["cpu_ms_per_image"][side]["median"]
        print(
            f"{side:<9} {rate['median']:.0f} images/s ({rate['min']:.0f} to {rate['max']:.0f}), {cpu:.2f} CPU ms each"
        )
    for key in ("throughput_recu_jax_to_pillow", "cpu_time_pillow_to_recu_jax"):
        print(f"{key}: {summary[key]['median']:.2f} ({summary[key]['min']:.2f} to {summary[key]['max']:.2f})")
    for num_workers, rate in result["recu_jax_images_per_second_by_workers"].items():
        print(f"recu_jax with {num_workers} workers: {rate:.0f} images/s")
    print(f"memory grew by {result['growth_over_20000_images_bytes'] / 1e6:.1f} MB over 20,000 images")
    if summary["largest_share_of_others"] > MAX_SHARE_OF_OTHERS:
        print(f"Other processes took up to {summary['largest_share_of_others']:.0%} of the processors during a turn.")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
