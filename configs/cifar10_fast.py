"""CIFAR-10 with a 1-bit ResNet-20 in 15 epochs.

    python -m recu_jax.main --config=configs/cifar10_fast.py --config.data_dir=DIR

It differs from configs/cifar10.py in its nonlinearity, the optimizer of the latent weights, the batch size and the
crops. docs/training_well.md says what each of them gains, and which fields a longer training needs. With larger
networks it was run for 2 epochs, with a lower learning_rate: cifar_resnet18 0.01, cifar_vgg_small 0.003.

Hardware: one core of an Intel Xeon took 65 minutes. Two cores of an AMD EPYC take about 18, at the pace
of the 80 epochs in docs/training_well.md. It was not run on a GPU.
Expected: 76.9 ± 0.2% test top-1 on CIFAR-10 (JPEG q75), mean and deviation of three seeds. The paper's recipe has 66.7%
in as many epochs, 80.5% in 80 and 83.6% in 600.
Record: experiments/results/cifar10_resnet20_fast/.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "cifar10"
    config.model = "cifar_resnet20"
    config.nonlinearity = "rprelu"
    config.latent_optimizer = "muon"
    config.latent_learning_rate = 0.02
    config.batch_size = 64
    config.crop_padding = 2
    config.epochs = 15
    config.warmup_epochs = 1
    return config
