"""Gives the trained networks that come with recu_jax: `pretrained("cifar_resnet20").predict(images)`."""

from recu_jax import networks
from recu_jax.deploy.model import Model, load


def pretrained(name: str) -> Model:
    """Loads a trained network that comes with recu_jax. Nothing is downloaded.

    Its model card is the file `NAME.md` in `recu_jax/networks/`. The page "Trained networks" of the documentation shows
    the card too.

    Args:
      name: one of `recu_jax.networks.NAMES`, such as "cifar_resnet20". It is also the name of the network's model, for
        `create_model` and `load_variables`.

    Returns:
      The network. It takes uint8 images and normalizes them itself.

    Raises:
      UserError: no network is called `name`.

    Example:
      >>> network = pretrained("digits_resnet8")
      >>> network.image_shape, network.num_classes
      ((8, 8, 1), 10)
    """
    return load(networks.file(name))
