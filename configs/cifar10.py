"""CIFAR-10 with a 1-bit ResNet-20, the recipe of the ReCU paper (SPEC.md section 7).

    python -m recu_jax.main --config=configs/cifar10.py --config.data_dir=DIR

Hardware: 2 cores of an AMD EPYC take 80 s an epoch, which is 13 hours for 600 epochs.
Expected: 87.4% test top-1 after 600 epochs in the paper (SPEC.md section 8); 600 epochs were not run here. One seed on
CIFAR-10, stored as JPEG at quality 75: 80.5% after 80 epochs, 61.7% after 10. Times and accuracy are recorded in
experiments/results/cifar10_resnet20_80_epochs/ and cifar10_resnet20_10_epochs/.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "cifar10"
    config.model = "cifar_resnet20"
    return config
