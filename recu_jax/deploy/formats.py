"""The file formats of `recu export`, by name. Each format has a function that writes a file and one that runs it.

A new format needs an entry in `FORMATS` and a module in this folder. The module is imported only when it is used.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from recu_jax.deploy import container, model

Path = str | pathlib.Path
Predictor = Callable[[np.ndarray], Any]


def _file_size(path: Path) -> int:
    return pathlib.Path(path).stat().st_size


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
      about: what the file is and who reads it, for the help.
      write: writes a network to a path. Takes the path, and the header and arrays from `deploy.trained.network`.
      predictor: takes the path of a file and returns a function that runs it. That function takes uint8 images,
        (batch, height, width, channels), and returns logits.
      size: takes the path of a file and returns the size of the file in bytes. For a folder of C it returns the size of
        the weights.
      require_runner: raises UserError if a program or package that runs the file is missing.
    """

    about: str
    write: Callable[[Path, dict[str, Any], dict[str, np.ndarray]], None]
    predictor: Callable[[Path], Predictor]
    size: Callable[[Path], int] = _file_size
    require_runner: Callable[[], None] = lambda: None


def _recu_predictor(path: Path) -> Predictor:
    return model.load(path).predict


def _write_stablehlo(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    from recu_jax.deploy import stablehlo

    container.write_bytes(path, stablehlo.serialize(model.parse(header, arrays, backend="xla")))


def _stablehlo_predictor(path: Path) -> Predictor:
    from recu_jax.deploy import stablehlo

    return stablehlo.predictor(pathlib.Path(path).read_bytes())


def _write_onnx(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    from recu_jax.deploy import onnx_export

    container.write_bytes(path, onnx_export.serialize(model.parse(header, arrays, backend="xla")))


def _onnx_predictor(path: Path) -> Predictor:
    from recu_jax.deploy import onnx_export

    return onnx_export.predictor(path)


def _require_onnx_runner() -> None:
    from recu_jax.deploy import onnx_export

    onnx_export.require_runner()


def _write_qonnx(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    from recu_jax.deploy import qonnx_export

    container.write_bytes(path, qonnx_export.serialize(model.parse(header, arrays, backend="xla")))


def _qonnx_predictor(path: Path) -> Predictor:
    from recu_jax.deploy import qonnx_export

    return qonnx_export.predictor(path)


def _require_qonnx_runner() -> None:
    from recu_jax.deploy import qonnx_export

    qonnx_export.require_runner()


def _write_c(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    from recu_jax.deploy.c import source

    source.write(path, model.parse(header, arrays, backend="xla"))


def _c_predictor(path: Path) -> Predictor:
    from recu_jax.deploy.c import compiled

    return compiled.predictor(path)


def _c_size(path: Path) -> int:
    from recu_jax.deploy.c import compiled

    return compiled.sizes_of(path)["WEIGHT_BYTES"]


def _require_c_compiler() -> None:
    from recu_jax.deploy.c import compiled

    compiled.compiler()


FORMATS = {
    "recu": Format("one bit per weight, for `recu predict` and recu_jax.deploy.load", container.write, _recu_predictor),
    "stablehlo": Format("a jax.export artifact that needs jax alone", _write_stablehlo, _stablehlo_predictor),
    "onnx": Format(
        "standard ONNX, for onnxruntime and OpenVINO", _write_onnx, _onnx_predictor, require_runner=_require_onnx_runner
    ),
    "qonnx": Format("for qonnx and hls4ml", _write_qonnx, _qonnx_predictor, require_runner=_require_qonnx_runner),
    "c": Format(
        "a folder of C99 for devices; --check compiles it", _write_c, _c_predictor, _c_size, _require_c_compiler
    ),
}
