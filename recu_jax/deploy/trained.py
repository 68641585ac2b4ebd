"""Reads a trained run and writes its network to a file."""

import dataclasses
import functools
import pathlib
import platform
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

import recu_jax
from recu_jax import data, paths
from recu_jax.config.fields import base_config, plain
from recu_jax.data import Dataset, DatasetInfo, Photos
from recu_jax.deploy import model
from recu_jax.deploy.build import BlockParts
from recu_jax.deploy.families import operations
from recu_jax.deploy.formats import FORMATS
from recu_jax.errors import UserError
from recu_jax.functional import sign
from recu_jax.models import num_classes_of
from recu_jax.references import is_reference
from recu_jax.training.recipe import binarizers_of


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best checkpoint of a run.

    Attributes:
      config: fields of the run's config.
      variables: `{"params": ..., "batch_stats": ...}`.
      info: describes the data set that the network was trained on.
      load_test: loads the test images for `deploy.check`, as `recu_jax.data.load_test` does.
    """

    config: Mapping[str, Any]
    variables: Mapping[str, Any]
    info: DatasetInfo
    load_test: Callable[[], Dataset | Photos]

    @property
    def other_dtype(self) -> str:
        """A remark that the dtype of the run differs from the float32 of the file; "" if the run used float32."""
        dtype = self.config["dtype"]
        return "" if dtype == "float32" else f"the file computes in float32, the run computed in {dtype}"

    @property
    def preprocessing(self) -> dict[str, Any]:
        """As in `deploy.model.Header`: how a photograph is resized and cropped. Empty for small images."""
        if self.info.name not in data.photos.NAMES:
            return {}
        return {"crop": self.config["train_crop"], "eval_resize": self.config["eval_resize"]}

    @property
    def float32_bytes(self) -> int:
        """Size of the parameters in float32, in bytes."""
        return 4 * sum(array.size for array in flatten_dict(dict(self.variables["params"])).values())


def read_trained(workdir: str | pathlib.Path, dataset: str | None = None, data_dir: str | None = None) -> Trained:
    """Reads the best checkpoint in `workdir`.

    The checkpoint of a run contains the normalization of the images and the names of the classes. For imported weights
    both come from the data set `dataset`, which is therefore required.

    Args:
      workdir: folder of a run, or one that `recu import-torch` made.
      dataset: name of the data set with the test images for `deploy.check`; None means the data set of the run.
      data_dir: location of the data set; None means `data_dir` of the run, if the data set is that of the run.

    Raises:
      UserError: there is no checkpoint; or, for imported weights, `dataset` is None, cannot be loaded, or has another
        number of classes.
    """
    # This imports Orbax. `--help` does not need it, so the import is not at the top.
    from recu_jax.training import bucket
    from recu_jax.training.checkpoint import read_best

    workdir = bucket.fetched(paths.of_run(workdir))
    _, record, variables = read_best(workdir)
    info = data.from_record(record, workdir)
    # The config of an imported checkpoint has only the fields of the model.
    config = plain(base_config()) | {"dataset": None, "data_dir": None} | record["config"]
    name = dataset or config.get("dataset")
    if name is None:
        raise UserError(
            f"{workdir} holds imported weights, of no data set; give `recu export` --dataset=NAME and --data_dir=DIR"
        )
    # The run's `data_dir` holds the run's data set, and no other.
    data_dir = data_dir or (config["data_dir"] if name == config["dataset"] else None)
    if info is not None:
        return Trained(config, variables, info, functools.cache(lambda: data.load_test(name, data_dir, info=info)))
    loaded = data.load_test(name, data_dir)
    classes = num_classes_of(variables["params"])
    if classes is not None and classes != loaded.num_classes:
        raise UserError(f"{workdir} has {classes} classes and {name} {loaded.num_classes}; give its --dataset")
    info = data.info_of(name, loaded, config["image_size"])
    return Trained(config, variables, info, lambda: loaded)


def network(trained: Trained) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes the header and the arrays of a network's file, for `container.write` and `deploy.model.parse`.

    Raises:
      UserError: a file cannot hold the model or its activation binarizer.
    """
    config, info = trained.config, trained.info
    parts = BlockParts(config["conv"], config["alpha"], *binarizers_of(config), config["nonlinearity"])
    _check_values(config, parts)
    if is_reference(config["activation_binarizer"]):
        _check_signs(config["activation_binarizer"], parts.input_binarizer)
    entries, arrays = operations(config["model"], trained.variables, parts, info.image_shape, info.mean, info.std)
    versions = {package.__name__: package.__version__ for package in (recu_jax, jax, flax)}
    header = {
        "format": model.FORMAT,
        "model": config["model"],
        "class_names": list(info.class_names),
        "preprocessing": trained.preprocessing,
        "versions": {**versions, "python": platform.python_version()},
        "operations": entries,
    }
    return header, arrays


def _check_values(config, parts):
    """Raises UserError if the values of weights or activations have an offset. Files hold signs and scales alone."""
    of_weights = config["conv"] == "binary" and parts.kernel_binarizer.shifted
    of_activations = config["conv"] != "float" and parts.input_binarizer.scaled
    if of_weights or of_activations:
        field = "weight_binarizer" if of_weights else "activation_binarizer"
        raise UserError(
            f"config.{field} is {config[field]!r}, and its two values are not +1 and -1 times a scale, as in a file; "
            "to export a network, train it with another binarizer"
        )


def _check_signs(name, binarizer):
    """Raises UserError unless a user's own binarizer computes sign(x) or sign(x - shift). Files hold no other signs."""
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
      One line of text: the path, the model, the size in bytes (`Format.size`), and how many times smaller this is than
      the float32 parameters. If the run did not compute in float32, the line says that the file does.

    Raises:
      UserError: a file cannot hold the model or its activation binarizer, the path cannot be written, or a package for
        the format is not installed.
    """
    path = paths.local(path)
    header, arrays = network(trained)
    FORMATS[kind].write(path, header, arrays)
    size = FORMATS[kind].size(path)
    less = trained.float32_bytes / size
    other = f"; {trained.other_dtype}: --check counts the predictions that differ" if trained.other_dtype else ""
    return f"{path} holds {header['model']} in {size} bytes, {less:.1f} times less than its float32 parameters{other}"
