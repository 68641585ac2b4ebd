"""CIFAR-100 with a 1-bit ResNet-20 and the CIFAR-10 recipe.

    python -m recu_jax.main --config=configs/cifar100.py --config.data_dir=DIR

Hardware: not timed; configs/cifar10.py has the times of the same network on as many images.
Expected: not known; this config was not run here, and the paper has no CIFAR-100 result.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "cifar100"
    config.model = "cifar_resnet20"
    return config
