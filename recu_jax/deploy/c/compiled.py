"""Compiles the C code of a network for this machine, and runs it."""

import ctypes
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from recu_jax.deploy.c.source import name_of
from recu_jax.errors import UserError, one_line

_SIZES = ("HEIGHT", "WIDTH", "CHANNELS", "CLASSES", "WEIGHT_BYTES", "RAM_BYTES")


def sizes_of(path: pathlib.Path | str) -> dict[str, int]:
    """Returns the sizes that the C header of a folder defines, by the names in `_SIZES`.

    Raises:
      UserError: `recu export --format=c` did not write the folder.
    """
    folder = pathlib.Path(path)
    try:
        header = (folder / f"{folder.name}.h").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no folder of `recu export --format=c`: it has no {folder.name}.h") from error
    found = {key: re.search(rf"^#define \w+_{key} (\d{{1,12}})$", header, re.MULTILINE) for key in _SIZES}
    if missing := [key for key, match in found.items() if match is None]:
        raise UserError(f"{path} is no folder of `recu export --format=c`: its header has no {missing[0]}")
    return {key: int(match[1]) for key, match in found.items() if match}


def compiler() -> list[str]:
    """Returns the command of the C compiler: the environment variable CC, or `cc` if CC is not set.

    Raises:
      UserError: the compiler is not installed.
    """
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise UserError(f"the C compiler {command[0]!r} is not installed; install gcc or clang, or set CC")
    return command


def predictor(path: pathlib.Path | str, options: Sequence[str] = ()) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a folder and returns a function that runs it, image by image.

    The function takes uint8 images, (batch, height, width, channels), and returns logits, (batch, classes).

    Args:
      path: a folder that `source.write` wrote. Its code is executed.
      options: further options for the compiler.

    Raises:
      UserError: `recu export --format=c` did not write the folder, or the compiler is not installed or fails. The
        returned function raises it for images of another shape.
    """
    sizes, name = sizes_of(path), name_of(path)
    native = ["-march=native"] if platform.machine() in ("x86_64", "AMD64") else []
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / f"{name}.so"
        command = [*compiler(), "-std=c99", "-O3", *native, "-shared", "-fPIC", "-o", str(library)]
        command += [*options, str(pathlib.Path(path) / f"{name}.c"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{path} cannot be compiled by {command[0]}: {one_line(done.stderr, 300)}")
        predict = getattr(ctypes.CDLL(str(library)), f"{name}_predict")
    predict.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    shape = tuple(sizes[key] for key in ("HEIGHT", "WIDTH", "CHANNELS"))

    def run(images):
        images = np.ascontiguousarray(images, np.uint8)
        if images.shape[1:] != shape:
            raise UserError(f"images are of shape {images.shape}; {name} takes (batch, {', '.join(map(str, shape))})")
        logits = np.empty((len(images), sizes["CLASSES"]), np.float32)
        for image, row in zip(images, logits, strict=True):
            predict(image.ctypes.data, row.ctypes.data)
        return logits

    return run
