"""Prepares pictures for an exported network and names the most probable classes."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from recu_jax.errors import UserError, require


def read_image(path: str, model: Any) -> np.ndarray:
    """Reads a picture and prepares it for the network.

    If the network classifies photographs, the picture is resized and cropped as in the evaluation. If it classifies
    small images, the whole picture is resized to the network's image size. If it takes one channel, the picture is
    converted to gray.

    Args:
      path: the picture.
      model: the network, a `deploy.model.Model` or a `deploy.flax_model.FlaxModel`.

    Returns:
      uint8, `model.image_shape`.

    Raises:
      UserError: the file cannot be read or is not a picture, the network takes neither 1 nor 3 channels, or cv2 or PIL
        is not installed.
    """
    require("cv2", "PIL", extra="data")
    from PIL import Image

    from recu_jax.data import images
    from recu_jax.data.transform import Transform

    height, width, channels = model.image_shape
    if channels not in (1, 3):
        raise UserError(
            f"{model.header.model} takes images of {channels} channels, and pictures are read as 1 (gray) or 3 (RGB); "
            "give arrays to recu_jax.deploy.load(FILE).predict"
        )
    try:
        data = pathlib.Path(path).read_bytes()
        if preprocessing := model.header.preprocessing:
            return Transform(image_size=height, **preprocessing).evaluate(data)
        image = Image.fromarray(images.decode(data)).resize((width, height), Image.Resampling.BILINEAR)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except images.CorruptImage as error:
        raise UserError(f"{path} is no picture that can be decoded: {error}") from error
    return np.asarray(image if channels == 3 else image.convert("L")).reshape(model.image_shape)


def top(logits: np.ndarray, names: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
    """Finds the most probable classes.

    Args:
      logits: (classes,).
      names: names of the classes. If empty, the class numbers are the names.
      count: number of classes to return.

    Returns:
      Names and probabilities of the `count` most probable classes, most probable first.
    """
    shifted = np.exp(np.float64(logits) - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:count]
    return [(names[i] if names else str(i), float(probabilities[i])) for i in best]
