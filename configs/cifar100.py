"""CIFAR-100 with a 1-bit ResNet-20 and the CIFAR-10 recipe.

    python -m recu_jax.main --config=configs/cifar100.py --config.data_dir=DIR

Hardware: not timed; the network and the number of images are those of configs/cifar10.py.
Expected: not known; it was not run here, and the paper has no figure for it.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "cifar100"
    config.model = "cifar_resnet20"
    return config
