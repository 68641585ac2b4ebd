"""Holds the trained networks that come with recu_jax, and reads their variables.

`recu_jax.pretrained(name)` returns a network that predicts. `recu_jax.load_variables(name)` and `config.init_from=name`
take its variables. Each network has three files here, which `experiments/make_network.py` writes:

| file | contents |
|---|---|
| `NAME.recu` | the network with one bit per weight, as `recu export` writes it |
| `NAME.safetensors` | the variables of the Flax model; the latent weights are float16, the rest float32 |
| `NAME.md` | the model card: data, recipe, accuracy, versions, licence |
"""

import os
import pathlib
from typing import Any

import numpy as np

from recu_jax.errors import unknown

_FOLDER = pathlib.Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.recu")))


def is_name(path: Any) -> bool:
    """Tells whether `path` is one of `NAMES`, and no file or folder of this name is in the current folder.

    A file of the user's own comes first, so that a new network in a later version changes no command.
    """
    return str(path) in NAMES and not os.path.exists(path)


def file(name: str, suffix: str = ".recu") -> pathlib.Path:
    """Returns the path of a network's file.

    Raises:
      UserError: no network is called `name`.
    """
    if name not in NAMES:
        raise unknown("trained network", name, NAMES)
    return _FOLDER / f"{name}{suffix}"


def variables(name: str) -> dict[str, Any]:
    """Reads the variables of a network's Flax model, `create_model(name)`.

    Returns:
      `{"params": ..., "batch_stats": ...}` of float32 NumPy arrays.

    Raises:
      UserError: no network is called `name`.
    """
    import safetensors.numpy

    found: dict[str, Any] = {}
    for path, array in safetensors.numpy.load_file(file(name, ".safetensors")).items():
        *modules, leaf = path.split("/")
        place = found
        for module in modules:
            place = place.setdefault(module, {})
        place[leaf] = array.astype(np.float32)
    return found
