"""CIFAR-10 with a 1-bit ResNet-20, the recipe of the ReCU paper.

python -m recu_jax.main --config=configs/cifar10.py --config.data_dir=DIR
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "cifar10"
    config.model = "cifar_resnet20"
    return config
