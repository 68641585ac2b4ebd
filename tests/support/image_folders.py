"""Writes folders of random images for the data set `image_folder`."""

import pathlib

import cv2
import numpy as np


def write(root: pathlib.Path, train: int, val: int, suffix: str, image) -> pathlib.Path:
    """Writes `train` training images and `val` validation images to `root`, and returns `root`.

    The classes are `a` and `b`, in turn. `image(generator)` must return an image.
    """
    r = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            path = root / split / "ab"[i % 2] / f"{i:02}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image(r))
    return root
