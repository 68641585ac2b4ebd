"""Exports trained 1-bit networks to files with one bit per weight, and runs them on kernels that compute with bits.

    model = recu_jax.deploy.load("model.recu")
    logits = model.predict(images)              # uint8, (batch, height, width, channels)

`recu export` writes the files. To load and run them, only jax and NumPy are needed. `ops` has the packed operations for
your own models.
"""

from recu_jax.deploy.model import Header, Model, load
from recu_jax.ops import binary_conv as ops

__all__ = ["Header", "Model", "load", "ops"]
