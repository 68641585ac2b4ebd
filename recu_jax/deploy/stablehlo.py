"""A network as a `jax.export` artifact: StableHLO that runs with jax alone, on CPU, GPU and TPU, for any batch."""

from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from recu_jax.deploy import runtime
from recu_jax.deploy.model import Model
from recu_jax.errors import UserError, require

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def serialize(model: Model) -> bytes:
    """The artifact of a function from uint8 images (batch, height, width, channels) to logits.

        logits = jax.export.deserialize(bytearray(data)).call(images)

    It holds a bit a weight and convolves +-1 in float32, without the compiled kernels of this library.

    Raises:
      UserError: flatbuffers, which jax.export needs, is not installed.
    """
    require("stablehlo", "flatbuffers")

    def logits(images):
        function, arrays = runtime.compile_steps(model.nodes, "xla", place=jnp.asarray)
        return function(arrays, images)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), np.uint8)
    return bytes(jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize())


def predictor(data: bytes) -> Callable[[np.ndarray], jax.Array]:
    """The function in an artifact, jitted.

    Raises:
      UserError: the bytes are no artifact, or flatbuffers is not installed.
    """
    require("stablehlo", "flatbuffers")
    try:
        return jax.jit(jax.export.deserialize(bytearray(data)).call)
    except Exception as error:  # whatever flatbuffers and MLIR raise
        raise UserError(f"no jax.export artifact: {str(error).splitlines()[0][:200]}") from error
