"""CIFAR-10 with a 1-bit ResNet-20, the recipe of the ReCU paper (SPEC.md section 7).

    python -m recu_jax.main --config=configs/cifar10.py --config.data_dir=DIR

Hardware: an NVIDIA H200 takes 0.6 s an epoch in bfloat16, and 2 cores of an AMD EPYC 80 s in float32, which is 13 hours
for 600 epochs.
Expected: 87.4% test top-1 after 600 epochs in the paper (SPEC.md section 8). On CIFAR-10, stored as JPEG at quality 75,
one seed each: 83.6% after 600 epochs, 80.5% after 80, 61.7% after 10. Times and accuracy are recorded in
experiments/results/cifar10_resnet20_600_epochs/, _80_epochs/ and _10_epochs/.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "cifar10"
    config.model = "cifar_resnet20"
    return config
