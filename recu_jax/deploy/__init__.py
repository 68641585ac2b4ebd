"""Inference of 1-bit networks: files with one bit per weight, and kernels that compute with bits.

    model = recu_jax.deploy.load("model.recu")
    logits = model.predict(images)              # uint8, (batch, height, width, channels)

This package needs only jax and NumPy. `recu export` writes the files. `ops` has the packed operations for your own
models.
"""

from recu_jax.deploy.model import Header, Model, load
from recu_jax.ops import binary_conv as ops

__all__ = ["Header", "Model", "load", "ops"]
