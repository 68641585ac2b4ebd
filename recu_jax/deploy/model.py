"""Loads a file of `recu export`: `load("model.recu").predict(images)`. Needs only jax and NumPy."""

import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np

from recu_jax.deploy import container, graph, runtime
from recu_jax.errors import UserError
from recu_jax.ops import native

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Header:
    """The description of a network in its file.

    Attributes:
      model: name of the model.
      class_names: one name for each logit; () if the file has none.
      preprocessing: `crop` and `eval_resize` of `recu_jax.data.transform.Transform`, if the network classifies
        photographs. Empty if it classifies small images.
      versions: versions of the packages that wrote the file, by package.
    """

    model: str
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    versions: dict[str, str]


class Model:
    """An exported network. `load` makes it.

    Attributes:
      header: the description of the network in its file.
      nodes: the checked operations.
      image_shape: (height, width, channels) of the images that the network takes.
      num_classes: number of classes.
      backend: the kernels that compute the binary layers: an instruction set of the CPU, or "xla".
    """

    def __init__(self, header: Header, nodes: list[graph.Node], backend: str | None = None):
        self.header = header
        self.nodes = nodes
        self.image_shape = nodes[0].value.shape
        self.num_classes = nodes[-1].value.shape[0]
        (device,) = jax.device_put(np.zeros(())).devices()
        self.backend = backend or (native.cpu_backend() if device.platform == "cpu" else "xla")
        function, arrays = runtime.compile_steps(nodes, self.backend)
        # `jit` handles a flat list faster than nested dicts. A call takes microseconds, so this matters.
        self._arrays, structure = jax.tree.flatten(jax.device_put(arrays))
        self._jitted = jax.jit(lambda arrays, images: function(jax.tree.unflatten(structure, arrays), images))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return f"<{self.header.model}: images of {shape}, {self.num_classes} classes, {self.backend}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each logit; () if the file has none."""
        return self.header.class_names

    def predict(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Computes the logits of images. Compiles the network once for each batch size.

        Args:
          images: uint8, (batch, height, width, channels).

        Returns:
          float32, (batch, num_classes).

        Raises:
          UserError: the images have another shape or dtype.
        """
        if images.ndim != 4 or images.shape[1:] != self.image_shape or images.dtype != np.uint8:
            raise UserError(
                f"images are {images.dtype} of shape {images.shape}; {self.header.model} takes uint8 of shape "
                f"(batch, {', '.join(map(str, self.image_shape))})"
            )
        return self._jitted(self._arrays, images)


def load(path: str | os.PathLike, backend: str | None = None) -> Model:
    """Loads the network in a file.

    Args:
      path: a file that `recu export` wrote. It may come from a stranger.
      backend: the kernels that compute the binary layers, as in `recu_jax.ops.packed.arrange_kernel`. None chooses
        the fastest kernels for the device.

    Raises:
      UserError: the file is missing, damaged, or of a newer version. The message is one line.
    """
    header, arrays = container.read(path)
    try:
        return parse(header, arrays, backend)
    except UserError as error:
        raise UserError(f"{path} is damaged or no file of `recu export`: {error}") from error


def parse(header: dict[str, Any], arrays: dict[str, np.ndarray], backend: str | None = None) -> Model:
    """Makes the network from the header and the arrays of a file.

    Args:
      header: as `container.read` returns it.
      arrays: as `container.read` returns them.
      backend: as in `load`.

    Raises:
      UserError: the header or an operation is wrong.
    """
    return Model(_header(header), _nodes(header, arrays), backend)


def _nodes(header, arrays):
    if header.get("format") != FORMAT:
        raise UserError(f"its format is {str(header.get('format'))[:20]}; this version of recu_jax knows {FORMAT}")
    nodes = graph.check(header.get("operations"), arrays)
    if (names := header.get("class_names")) and len(names) != nodes[-1].value.shape[0]:
        raise UserError(f"it has {len(names)} class names for {nodes[-1].value.shape[0]} classes")
    return nodes


def _header(header):
    model, names = header.get("model"), header.get("class_names", [])
    text = functools.partial(map, lambda value: isinstance(value, str))
    if not isinstance(model, str):
        raise UserError("it does not name its model")
    if not isinstance(names, list) or not all(text(names)):
        raise UserError("its class names are no list of text")
    preprocessing, versions = header.get("preprocessing", {}), header.get("versions", {})
    if not isinstance(versions, dict) or not all(text(versions.values())):
        raise UserError("its versions are no object of text")
    crop, size = (preprocessing.get(k) for k in ("crop", "eval_resize")) if isinstance(preprocessing, dict) else (0, 0)
    if preprocessing != {} and not (isinstance(crop, str) and container.is_count(size) and 0 < size < 1 << 14):
        raise UserError("its preprocessing is not a crop and a size")
    return Header(model, tuple(names), preprocessing, versions)
