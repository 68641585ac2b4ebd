"""Defines the smallest ResNets, and arguments for runs with them.

Such a run does all that a run does. It starts and compiles in a third of the time that `digits_resnet8` takes.
"""

import functools
import pathlib

import numpy as np

from recu_jax.data import digits
from recu_jax.models.cifar_resnet import CifarResNet, TwoShortcutBlock

_of_width = functools.partial(CifarResNet, stage_sizes=(1,), block=TwoShortcutBlock, stem_activation=True)
network = functools.partial(_of_width, widths=(8,))
wide = functools.partial(_of_width, widths=(64,))
# Names of the networks for `config.model`. Both have two 1-bit convolutions. A checkpoint of the wide one has 0.7 MB.
MODEL, WIDE = f"{__name__}:network", f"{__name__}:wide"


def arguments(folder: pathlib.Path, model: str = MODEL) -> list[str]:
    """Returns arguments of `recu_jax.main` for a run that reads the digits from a file in `folder`.

    Writes the file if it is missing. With the file, a run does not import scikit-learn, which takes 2 s.
    """
    file = folder / "digits.npz"
    if not file.exists():
        data = digits.load()
        names = ("train_images", "train_labels", "test_images", "test_labels")
        np.savez(file, **{name: getattr(data, name) for name in names})
    fields = {"model": model, "dataset": "npz", "data_dir": file, "tensorboard": False}
    return ["--config=configs/digits.py", *(f"--config.{name}={value}" for name, value in fields.items())]
