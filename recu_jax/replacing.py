"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends; if anything fails `path` stays as it was.

    Raises:
      OSError: the folder is not there, or cannot be written to.
    """
    path = pathlib.Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
