"""1-bit networks at inference: files with a bit a weight, and kernels that compute with bits.

    model = recu_jax.deploy.load("model.recu")
    logits = model.predict(images)              # uint8, (batch, height, width, channels)

Needs jax and NumPy alone. `python -m recu_jax.export` writes the files; `ops` has the packed operations for models of
your own.
"""

from recu_jax.bits import ops
from recu_jax.deploy.model import Header, Model, load

__all__ = ["Header", "Model", "load", "ops"]
