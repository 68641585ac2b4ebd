"""Measures what a checkpoint after every epoch costs, by training ResNet-20 on CIFAR-10 with and without saves.

    python experiments/benchmarks/checkpoint_overhead.py --data_dir=DIR [--pairs=3] [--steps=195] --out=FILE.json

A turn is `--steps` training steps. Turns come in pairs, one with a save and one without. A turn with a save first calls
`save`, which goes on in the background during the steps. Reports the seconds of each turn, the seconds that the call of
`save` holds up training, and the processor time of a save from its call to its end.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time

import jax

from recu_jax import config as configs
from recu_jax import data
from recu_jax.config.fields import plain
from recu_jax.ops import backend
from recu_jax.training.checkpoint import Checkpoints
from recu_jax.training.feed import make_feed
from recu_jax.training.recipe import make_recipe
from recu_jax.training.step import create_state, replicate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=195, help="training steps in a turn; an epoch has 195")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    backend.set_xla_flags()
    config = configs.load("cifar10")
    devices = jax.local_devices()[:1]
    dataset = data.load("cifar10", arguments.data_dir)
    feed = make_feed(config, dataset, devices)
    recipe = make_recipe(config, dataset, feed.steps_per_epoch)
    state = replicate(create_state(recipe, 0, feed.image_shape), devices)
    step = feed.step(recipe)
    feed.start(0)
    done = 0

    def turn():
        nonlocal state, done
        began, last = time.monotonic(), done + arguments.steps
        while done < last:
            steps, taken = feed.take(done, None)
            state, metrics = step(state, {}, *taken)
            done += steps
            if done % 20 == 0:
                jax.block_until_ready(metrics)
        jax.block_until_ready(state)
        return time.monotonic() - began

    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:

        def save():
            began = time.monotonic()
            checkpoints.save(jax.device_get(state), plain(config), {"epoch": 1, "test_top1": 0.0})
            return time.monotonic() - began

        turn()  # the first turn compiles
        save()  # Orbax's first save sets up its threads
        checkpoints.wait()
        with_save, without, held_up, cpu = [], [], [], []
        for pair in range(arguments.pairs):
            for saving in (True, False) if pair % 2 == 0 else (False, True):
                began = time.monotonic()
                if saving:
                    held_up.append(save())
                turn()
                (with_save if saving else without).append(time.monotonic() - began)
                print(f"{'with' if saving else 'without'} a save: {time.monotonic() - began:.2f} s", flush=True)
        for _ in range(5):
            state = state.replace(step=state.step + 1)  # because a checkpoint's folder is named after the step
            began = time.process_time()
            save()
            checkpoints.wait()
            cpu.append(time.process_time() - began)
    pairs = [a / b - 1 for a, b in zip(with_save, without, strict=True)]
    epoch = statistics.median(without) * feed.steps_per_epoch / arguments.steps
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(), "jax": jax.__version__, "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0], "steps_a_turn": arguments.steps,
        "seconds_with_save": with_save, "seconds_without": without,
        "overhead_of_each_pair_percent": [100 * p for p in pairs],
        "save_holds_up_seconds": held_up, "save_cpu_seconds": cpu, "seconds_an_epoch": epoch,
        "cpu_of_a_save_percent_of_an_epoch": 100 * statistics.median(cpu) / (epoch * os.cpu_count()),
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"a save holds training up for {1000 * statistics.median(held_up):.0f} ms and takes "
        f"{statistics.median(cpu):.2f} s of processor time, an epoch {epoch:.0f} s; with a save a turn of "
        f"{arguments.steps} steps takes {100 * statistics.median(pairs):+.2f}% (pairs: "
        f"{', '.join(f'{100 * p:+.2f}' for p in pairs)})"
    )


if __name__ == "__main__":
    main()
