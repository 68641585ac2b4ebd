"""Writes folders of images cut from two photographs, some corrupt. Has the settings with which tests stream them."""

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from recu_jax.data.transform import Transform

TRANSFORM = Transform(image_size=24, eval_resize=28)
IMAGES, CORRUPT = 23, 9
TRAIN = {"seed": 5, "batch_size": 4, "epochs": 5, "transform": TRANSFORM}
STEPS = 5 * (IMAGES // 4)


def write_folder(root, split, images, corrupt=()):
    """Writes parts of two photographs, in three classes. Files whose number is in `corrupt` lack their second half."""
    china, flower = load_sample_images().images
    for i in range(images):
        part = (china, flower)[i % 2][7 * i : 7 * i + 90, 11 * i : 11 * i + 100 + i, ::-1]
        data = cv2.imencode(".jpg", part)[1].tobytes()
        path = root / split / f"class{i * 3 // images}" / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2] if i in corrupt else data)


def kept(batches):
    return [{k: np.array(v) for k, v in batch.items()} for batch in batches]
