"""Writes a network as a `jax.export` artifact (StableHLO).

The artifact needs only jax. It runs on CPU, GPU and TPU, for any batch size.
"""

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
    """Makes the artifact of a function from uint8 images, (batch, height, width, channels), to logits.

    Call the artifact, the returned bytes `data`, like this:

        logits = jax.export.deserialize(bytearray(data)).call(images)

    The artifact holds one bit per binary weight. It convolves +1 and -1, in float32 on CPUs and in bfloat16 elsewhere;
    both are exact. It does not use the compiled kernels of this library.

    Raises:
      UserError: flatbuffers, which jax.export needs, is not installed.
    """
    require("flatbuffers")

    def logits(images):
        function, arrays = runtime.compile_steps(model.nodes, "xla", place=jnp.asarray)
        return function(arrays, images)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), np.uint8)
    return bytes(jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize())


def predictor(data: bytes) -> Callable[[np.ndarray], jax.Array]:
    """Returns the function in an artifact, compiled by `jit`.

    Raises:
      UserError: the bytes are not an artifact, or flatbuffers is not installed.
    """
    require("flatbuffers")
    try:
        return jax.jit(jax.export.deserialize(bytearray(data)).call)
    except Exception as error:  # flatbuffers and MLIR raise exceptions of many types
        raise UserError(f"no jax.export artifact: {str(error).splitlines()[0][:200]}") from error
