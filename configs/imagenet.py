"""ImageNet with a 1-bit ResNet-18, 224 pixels: 61.0 top-1 in the paper (65.1 for the 34 layers); not yet run in full.

python -m recu_jax.main --config=configs/imagenet.py --config.data_dir=DIR [--config.model=imagenet_resnet34]

`DIR` is TFDS's folder with imagenet2012 in array_record form; or, with --config.dataset=image_folder, a folder with
train/CLASS/*.JPEG and val/CLASS/*.JPEG. `--config.dtype=bfloat16` computes in half the memory.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "imagenet2012"
    config.num_workers = 8
    config.model = "imagenet_resnet18"
    config.epochs = 200
    config.batch_size = 512
    config.weight_decay = 1e-4
    config.weight_decay_on = "conv_and_linear"
    return config
