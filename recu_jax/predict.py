"""The command that says what is on a picture:

    python -m recu_jax.predict FILE IMAGE...

FILE is what `python -m recu_jax.export` wrote. Prints the five most probable classes of each image.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from recu_jax import backend
from recu_jax.command_line import ArgumentParser, run
from recu_jax.deploy.model import Model, load
from recu_jax.errors import UserError, require

_SHOWN = 5


def read_image(path: str, model: Model) -> np.ndarray:
    """A picture as the network's test images were made: uint8, `model.image_shape`.

    Photographs are resized and cropped as in the evaluation; for a network of small images the whole picture is
    squeezed into its size, and made grey where it knows no colours.

    Raises:
      UserError: no such file, or no picture.
    """
    require("imagenet", "cv2", "PIL")
    from PIL import Image

    from recu_jax.data import images
    from recu_jax.data.transform import Transform

    height, width, channels = model.image_shape
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


def top(logits: np.ndarray, names: Sequence[str], count: int = _SHOWN) -> list[tuple[str, float]]:
    """Names and probabilities of the `count` most probable classes, best first, of logits (classes,)."""
    shifted = np.exp(np.float64(logits) - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:count]
    return [(names[i] if names else str(i), float(probabilities[i])) for i in best]


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("recu_jax.predict", "Prints the five most probable classes of each image.")
    parser.add_argument("file", metavar="FILE", help="what python -m recu_jax.export wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="pictures: JPEG, PNG, WebP, BMP")
    args = parser.parse_args(argv)
    backend.set_xla_flags()
    run(lambda: _main(args))


def _main(args) -> None:
    model = load(args.file)
    # One at a time: a batch of another size would be compiled anew.
    for path in args.images:
        logits = np.asarray(model.predict(read_image(path, model)[None]))[0]
        found = top(logits, model.header.class_names)
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in found), flush=True)


if __name__ == "__main__":
    main()
