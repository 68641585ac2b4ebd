"""The command that makes a file of a run:

    python -m recu_jax.export WORKDIR --out=FILE [--format=recu|stablehlo|qonnx] [--check]

`recu` is for `recu_jax.deploy.load` and `python -m recu_jax.predict`: a bit a weight. `stablehlo` is a `jax.export`
artifact, which runs with jax alone. `qonnx` is for FINN and hls4ml. `--check` runs the test set through the trained
model and through the file, and writes what came out to FILE.check.json too.
"""

import dataclasses
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from flax.traverse_util import flatten_dict

import recu_jax
from recu_jax import backend, data
from recu_jax.command_line import ArgumentParser, run
from recu_jax.data import Dataset, Photos
from recu_jax.data.class_names import class_names
from recu_jax.deploy import container, model
from recu_jax.deploy.build import Convs
from recu_jax.deploy.families import operations
from recu_jax.errors import UserError

FORMATS = ("recu", "stablehlo", "qonnx")
# Of a config, where imported weights or older runs have none.
_DEFAULTS = {
    "weight_binarizer": "recu", "activation_binarizer": "recu", "nonlinearity": None, "standardize": True,
    "clamp": True, "laplace_b": 2.0, "centre": True, "image_size": 224, "eval_resize": 256,
    "train_crop": "random_resized",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best checkpoint of a run, and the data set that it was trained on.

    Attributes:
      config: fields of its config.
      variables: `{"params": ..., "batch_stats": ...}`.
      dataset: the data set.
      data_dir: where it is.
    """

    config: Mapping[str, Any]
    variables: Mapping[str, Any]
    dataset: Dataset | Photos
    data_dir: str | None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        if isinstance(self.dataset, Dataset):
            return tuple(self.dataset.test_images.shape[1:])
        return (self.config["image_size"], self.config["image_size"], 3)

    @property
    def float32_bytes(self) -> int:
        """What the parameters take in float32."""
        return 4 * sum(array.size for array in flatten_dict(dict(self.variables["params"])).values())


def read(workdir: str | pathlib.Path, dataset: str | None = None, data_dir: str | None = None) -> Trained:
    """The best checkpoint in `workdir`.

    Args:
      workdir: of a run, or of `recu_jax.torch_import`.
      dataset: name of the data set; None is the run's.
      data_dir: where it is; None is where it was.

    Raises:
      UserError: no checkpoint, or its data set is not there, or has another number of classes.
    """
    # Orbax; not at the top, since --help does without.
    from recu_jax.checkpoint import read_best

    _, record, variables = read_best(workdir)
    config = _DEFAULTS | record["config"]
    name = dataset or config.get("dataset")
    if name is None:
        raise UserError(f"{workdir} holds imported weights, of no data set; give --dataset=NAME and --data_dir=DIR")
    data_dir = data_dir or config.get("data_dir")
    loaded = data.load(name, data_dir)
    head = variables["params"].get("linear") or variables["params"]["fc"]
    if len(head["bias"]) != loaded.num_classes:
        raise UserError(
            f"{workdir} has {len(head['bias'])} classes and {name} {loaded.num_classes}; give its --dataset"
        )
    return Trained(config | {"dataset": name}, variables, loaded, data_dir)


def network(trained: Trained) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of the file of a trained network, for `container.write` and `deploy.model.parse`."""
    config, dataset = trained.config, trained.dataset
    convs = Convs(**{field.name: config[field.name] for field in dataclasses.fields(Convs)})
    entries, arrays = operations(
        config["model"], trained.variables, convs, trained.image_shape, dataset.mean, dataset.std
    )
    preprocessing = {}
    if isinstance(dataset, Photos):
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


def export(trained: Trained, path: str | pathlib.Path, kind: str = "recu") -> str:
    """Writes a trained network to `path`, where a file that is there is replaced.

    Returns:
      What was written, in a line.

    Raises:
      UserError: the path cannot be written, or the format lacks a package.
    """
    header, arrays = network(trained)
    if kind == "recu":
        container.write(path, header, arrays)
    elif kind == "stablehlo":
        from recu_jax.deploy import stablehlo

        container.write_bytes(path, stablehlo.serialize(model.parse(header, arrays, backend="xla")))
    else:
        from recu_jax.deploy import qonnx_export

        container.write_bytes(path, qonnx_export.serialize(model.parse(header, arrays, backend="xla")))
    size = pathlib.Path(path).stat().st_size
    less = trained.float32_bytes / size
    return f"{path} holds {header['model']} in {size} bytes, {less:.1f} times less than its float32 parameters"


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("recu_jax.export", "Makes a file of a run's best checkpoint.")
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a run")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to make; one that is there is replaced")
    parser.add_argument("--format", choices=FORMATS, default="recu", help="default: recu")
    parser.add_argument("--check", action="store_true", help="compare it with the trained model on the test set")
    parser.add_argument("--dataset", metavar="NAME", help="default: that of the run")
    parser.add_argument("--data_dir", metavar="DIR", help="of the data set; default: that of the run")
    args = parser.parse_args(argv)
    backend.set_xla_flags()
    run(lambda: _main(args))


def _main(args) -> None:
    trained = read(args.workdir, args.dataset, args.data_dir)
    print(export(trained, args.out, args.format), flush=True)
    if args.check:
        from recu_jax.deploy.check import check

        print(check(trained, args.out, args.format))


if __name__ == "__main__":
    main()
