"""Compares an exported file with its trained model on the whole test set."""

import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from recu_jax import paths
from recu_jax.data import stream
from recu_jax.deploy import container
from recu_jax.deploy.flax_model import FlaxModel
from recu_jax.deploy.formats import FORMATS

_BATCH = {True: 256, False: 16}  # batch sizes: True for small images in memory, False for photographs
_WORKERS = 2


def check(trained: Any, path: str | pathlib.Path, kind: str = "recu") -> str:
    """Runs the test set through the trained model and through an exported file.

    Writes the result to the file `path` + ".check.json".

    Args:
      trained: a `recu_jax.deploy.trained.Trained`.
      path: the exported file.
      kind: format of the file, a key of `FORMATS`.

    Returns:
      The result as one line of text.

    Raises:
      UserError: the file cannot be read or run, the test images are missing or cannot be decoded, or the result cannot
        be written.
    """
    path = paths.local(path)
    float_model, from_file = FlaxModel(trained).predict, FORMATS[kind].predictor(path)
    totals = {"images": 0, "differing_predictions": 0, "max_logit_difference": 0.0}
    seconds = [0.0, 0.0]
    for images, count in _test_batches(trained.config, trained.load_test()):
        results = []
        for i, predict in enumerate((from_file, float_model)):
            if not totals["images"]:
                predict(images)  # compiles, before the time is measured
            began = time.perf_counter()
            results.append(np.asarray(predict(images))[:count])
            seconds[i] += (time.perf_counter() - began) * count / len(images)
        ours, theirs = results
        totals["images"] += count
        totals["differing_predictions"] += int((ours.argmax(-1) != theirs.argmax(-1)).sum())
        totals["max_logit_difference"] = max(totals["max_logit_difference"], float(abs(ours - theirs).max()))
    totals |= {
        "bytes": FORMATS[kind].size(path),
        "float32_bytes": trained.float32_bytes,
        "images_per_second": totals["images"] / seconds[0],
        "float_images_per_second": totals["images"] / seconds[1],
    }
    container.write_bytes(f"{pathlib.Path(path)}.check.json", (json.dumps(totals, indent=2) + "\n").encode())
    other = f" ({trained.other_dtype})" if trained.other_dtype else ""
    return (
        f"{totals['images']} test images: {totals['differing_predictions']} differing predictions{other}, "
        f"logits differ by {totals['max_logit_difference']:.1e} at most; the file has {totals['bytes']} bytes, the "
        f"float32 parameters {totals['float32_bytes']}; "
        f"{_speeds(totals['images_per_second'], totals['float_images_per_second'])}"
    )


def _speeds(of_file, of_model):
    """Formats the speeds of the file and of the trained model, in images per second, and says which is faster."""
    faster, times = ("file", of_file / of_model) if of_file >= of_model else ("trained model", of_model / of_file)
    return (
        f"the file computes {of_file:.0f} images/s, the trained model in Flax {of_model:.0f}: the {faster} is "
        f"{times:.1f} times as fast"
    )


def _test_batches(config, dataset) -> Iterator[tuple[np.ndarray, int]]:
    """Yields batches of equal size, each with its number of test images. The rest of the last batch is padding."""
    size = _BATCH[dataset.in_memory]
    if dataset.in_memory:
        images = dataset.test_images
        size = min(size, len(images))
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            yield np.concatenate([batch, images[: size - len(batch)]]), len(batch)
        return
    transform = stream.Transform(
        image_size=config["image_size"], crop=config["train_crop"], eval_resize=config["eval_resize"]
    )
    with stream.eval_batches(dataset.test, batch_size=size, transform=transform, num_workers=_WORKERS) as batches:
        for batch in batches:
            yield np.array(batch["image"]), int(batch["weight"].sum())
