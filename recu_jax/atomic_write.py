"""Writes files as a whole: a reader never sees a half-written file."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends. If the block fails, `path` stays unchanged.

        with atomic_write("run.json") as file:
            file.write(b"{}")

    If `path` is a device or a pipe, such as /dev/null, the block writes to it directly, because a rename would replace
    it with an ordinary file.

    Args:
      path: file to write.

    Yields:
      The temporary file, or the device or pipe, open for binary writing.

    Raises:
      OSError: `path` is a folder, or the folder of `path` does not exist or cannot be written to.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as file:
            yield file
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
