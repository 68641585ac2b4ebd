"""Predicts with a run's best checkpoint and its Flax model, for runs of any model, including a user's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recu_jax.data.augment import normalize
from recu_jax.deploy.model import Header
from recu_jax.deploy.trained import Trained, read_trained
from recu_jax.training.recipe import make_model


def of_run(workdir: str) -> "FlaxModel":
    """Reads the network of a run's best checkpoint.

    Raises:
      UserError: as in `trained.read_trained` without a data set; or the run's own model or binarizer is not found.
    """
    return FlaxModel(read_trained(workdir))


class FlaxModel:
    """The network of a run. It has those attributes of `deploy.model.Model` that the prediction of a picture needs.

    Attributes:
      header: the model, the classes and the preprocessing.
      image_shape: (height, width, channels) of the images that the network takes.
    """

    def __init__(self, trained: Trained):
        config, info = trained.config, trained.info
        self.header = Header(config["model"], tuple(info.class_names), trained.preprocessing, {})
        self.image_shape = tuple(info.image_shape)
        # Files compute in float32, so a model trained in float64 computes in float32 here too.
        dtype = jnp.bfloat16 if config.get("dtype") == "bfloat16" else jnp.float32
        changes = {"dtype": dtype, "param_dtype": jnp.float32, "norm_axis": None}
        model = make_model(config, info.num_classes, **changes)
        self._variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), trained.variables)

        @jax.jit
        def logits(variables, images):
            logits: Any = model.apply(variables, normalize(images, info.mean, info.std, dtype))
            return logits.astype(jnp.float32)

        self._logits = logits

    def predict(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Computes the logits of images.

        Args:
          images: uint8, (batch, height, width, channels).

        Returns:
          float32, (batch, num_classes).
        """
        return self._logits(self._variables, images)
