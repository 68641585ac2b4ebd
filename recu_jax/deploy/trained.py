"""Reads a trained run and writes its network to a file."""

import dataclasses
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

import recu_jax
from recu_jax import data
from recu_jax.config.fields import base_config, plain
from recu_jax.data import Dataset, Photos
from recu_jax.data.photos import class_names
from recu_jax.deploy import model
from recu_jax.deploy.build import BlockParts
from recu_jax.deploy.families import operations
from recu_jax.deploy.formats import FORMATS
from recu_jax.errors import UserError
from recu_jax.functional import sign
from recu_jax.references import is_reference
from recu_jax.training.recipe import binarizers_of


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best checkpoint of a run, and the data set that it was trained on.

    Attributes:
      config: fields of the run's config.
      variables: `{"params": ..., "batch_stats": ...}`.
      dataset: the data set.
      data_dir: location of the data set, as for `recu_jax.data.load`.
    """

    config: Mapping[str, Any]
    variables: Mapping[str, Any]
    dataset: Dataset | Photos
    data_dir: str | None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of the network's images."""
        return self.dataset.image_shape(self.config["image_size"])

    @property
    def float32_bytes(self) -> int:
        """Size of the parameters in float32, in bytes."""
        return 4 * sum(array.size for array in flatten_dict(dict(self.variables["params"])).values())


def read_trained(workdir: str | pathlib.Path, dataset: str | None = None, data_dir: str | None = None) -> Trained:
    """Reads the best checkpoint in `workdir`, and loads its data set.

    Args:
      workdir: folder of a run, or one that `recu import-torch` made.
      dataset: name of the data set; None for that of the run.
      data_dir: location of the data set; None for that of the run.

    Raises:
      UserError: there is no checkpoint, the data set is missing, or it has another number of classes.
    """
    # This imports Orbax. `--help` does not need it, so the import is not at the top.
    from recu_jax.training.checkpoint import read_best

    _, record, variables = read_best(workdir)
    # The config of an imported checkpoint has only the fields of the model.
    config = plain(base_config()) | {"dataset": None, "data_dir": None} | record["config"]
    name = dataset or config.get("dataset")
    if name is None:
        raise UserError(f"{workdir} holds imported weights, of no data set; give --dataset=NAME and --data_dir=DIR")
    data_dir = data_dir or config.get("data_dir")
    loaded = data.load(name, data_dir)
    # A model of one's own may call its last layer otherwise.
    head = variables["params"].get("linear") or variables["params"].get("fc")
    if head and len(head["bias"]) != loaded.num_classes:
        raise UserError(
            f"{workdir} has {len(head['bias'])} classes and {name} {loaded.num_classes}; give its --dataset"
        )
    return Trained(config | {"dataset": name}, variables, loaded, data_dir)


def network(trained: Trained) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes the header and the arrays of a network's file, for `container.write` and `deploy.model.parse`."""
    config, dataset = trained.config, trained.dataset
    parts = BlockParts(config["conv"], config["alpha"], *binarizers_of(config), config["nonlinearity"])
    if is_reference(config["activation_binarizer"]):
        _check_signs(config["activation_binarizer"], parts.input_binarizer)
    entries, arrays = operations(
        config["model"], trained.variables, parts, trained.image_shape, dataset.mean, dataset.std
    )
    preprocessing = {}
    if not dataset.in_memory:
        preprocessing = {"crop": config["train_crop"], "eval_resize": config["eval_resize"]}
    versions = {package.__name__: package.__version__ for package in (recu_jax, jax, flax)}
    header = {
        "format": model.FORMAT,
        "model": config["model"],
        "class_names": class_names(config["dataset"], trained.data_dir, dataset.num_classes),
        "preprocessing": preprocessing,
        "versions": {**versions, "python": platform.python_version()},
        "operations": entries,
    }
    return header, arrays


def _check_signs(name, binarizer):
    """Raises UserError if a user's own binarizer of activations returns other signs than those that a file takes."""
    x, shift = np.linspace(-3, 3, 601, dtype=np.float32)[:, None], np.full(1, 0.3, np.float32)
    shifted = set(binarizer.parameters) == {"shift"}
    same = shifted or not binarizer.parameters
    if same:
        parameters = {"shift": shift} if shifted else {}
        found = binarizer(x, sample_ndim=1, train=False, **parameters)
        same = np.array_equal(found, sign(jnp.asarray(x - shift if shifted else x)))
    if not same:
        raise UserError(
            f"activation binarizer is {name!r}, and a file knows sign(x) and, with the parameter 'shift', "
            "sign(x - shift) alone; its signs are others"
        )


def write(trained: Trained, path: str | pathlib.Path, kind: str = "recu") -> str:
    """Writes a trained network to `path`. Replaces an existing file.

    Args:
      trained: the network.
      path: of the file.
      kind: format of the file, a key of `FORMATS`.

    Returns:
      One line of text: the model, its size in bytes, and how many times less that is than its float32 parameters.

    Raises:
      UserError: the path cannot be written, or a package for the format is not installed.
    """
    header, arrays = network(trained)
    FORMATS[kind].write(path, header, arrays)
    size = pathlib.Path(path).stat().st_size
    less = trained.float32_bytes / size
    return f"{path} holds {header['model']} in {size} bytes, {less:.1f} times less than its float32 parameters"
