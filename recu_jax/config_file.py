"""Config files: anyone's, and those that come with recu_jax.

    config = load("cifar10", epochs=20, data_dir="data")

Where there is no file of a given path, `configs/digits.py`, `digits.py` or `digits` is the shipped one of that name.
"""

import importlib.util
import pathlib
from typing import Any

import ml_collections

from recu_jax.errors import UserError, unknown

_HERE = pathlib.Path(__file__).parent


def shipped() -> dict[str, pathlib.Path]:
    """The configs that come with recu_jax, by name: beside its modules where it is installed, else in its checkout."""
    folder = next(f for f in (_HERE / "configs", _HERE.parent / "configs") if f.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def find(path: str) -> str:
    """`path`, or that of the shipped config which it names where it is no file; `:PART` after it stays."""
    file, colon, part = path.partition(":")
    name = pathlib.PurePath(file)
    if not pathlib.Path(file).is_file() and str(name.parent) in (".", "configs"):
        file = str(shipped().get(name.stem if name.suffix == ".py" else name.name, file))
    return file + colon + part


def load(path: str, **fields: Any) -> ml_collections.ConfigDict:
    """The config of a file, for `recu_jax.loop.train`.

    Args:
      path: of a file with `get_config()`, or the name of a shipped one; `:PART` after it is given to `get_config`.
      **fields: changed in it.

    Raises:
      UserError: no such file, or no such field.
    """
    file, _, part = find(path).partition(":")
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
    if not pathlib.Path(file).is_file() or spec is None or spec.loader is None:
        raise unknown("config", path, shipped())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(part) if part else module.get_config()
    for name, value in fields.items():
        if name not in config:
            raise unknown("config field", name, config)
        try:
            config[name] = value
        except (TypeError, ValueError) as error:
            raise UserError(f"config.{name} is {value!r}: {error}") from error
    return config
