"""Loads config files of users, and the configs that come with recu_jax ("shipped" configs).

    config = load("cifar10", epochs=20, data_dir="data")

A shipped config has three names: `configs/digits.py`, `digits.py` and `digits`. If the given name is the path of an
existing file, `load` loads this file instead of the shipped config.
"""

import contextlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import ml_collections

from recu_jax import paths, references
from recu_jax.errors import UserError, unknown

_HERE = pathlib.Path(__file__).parent.parent


def shipped() -> dict[str, pathlib.Path]:
    """Returns the files of the shipped configs by name.

    In an installed package, the folder `configs` is in the folder `recu_jax`. In a checkout of the repository, it is
    beside that folder.
    """
    folder = next(f for f in (_HERE / "configs", _HERE.parent / "configs") if f.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def find(path: str) -> str:
    """Returns `path` if this file exists, and otherwise the path of the shipped config of this name.

    `~` is expanded, and a suffix `:PART` is kept. If there is neither file nor shipped config, `path` is returned.
    """
    file, colon, part = paths.local(path, "--config").partition(":")
    name = pathlib.PurePath(file)
    if not pathlib.Path(file).is_file() and str(name.parent) in (".", "configs"):
        file = str(shipped().get(name.stem if name.suffix == ".py" else name.name, file))
    return file + colon + part


def search_beside(file: str) -> None:
    """Lets a user's config `file` refer to objects in modules beside the file, as `"module:name"`."""
    if pathlib.Path(file) not in shipped().values():
        references.search(pathlib.Path(file).resolve().parent)


@contextlib.contextmanager
def without_bytecode() -> Iterator[None]:
    """Within the block, Python writes no bytecode. So a config file gets no folder `__pycache__` beside it."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def load(path: str, **fields: Any) -> ml_collections.ConfigDict:
    """Loads the config of a file, for `recu_jax.training.loop.train`.

    Args:
      path: a file with `get_config()`, or the name of a shipped config. The text after a colon is the argument of
        `get_config`, as in `FILE:PART`.
      **fields: fields to change, with their new values.

    Raises:
      UserError: there is no such file or no such field, or a value has the wrong type.
    """
    file, _, part = find(path).partition(":")
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
    if not pathlib.Path(file).is_file() or spec is None or spec.loader is None:
        raise unknown("config", path, shipped())
    module = importlib.util.module_from_spec(spec)
    with without_bytecode():
        spec.loader.exec_module(module)
    search_beside(file)
    config = module.get_config(part) if part else module.get_config()
    for name, value in fields.items():
        if name not in config:
            raise unknown("config field", name, config)
        try:
            config[name] = value
        except (TypeError, ValueError) as error:
            raise UserError(f"config.{name} is {value!r}: {error}") from error
    return config
