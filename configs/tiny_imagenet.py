"""Tiny-ImageNet (200 classes) with a 1-bit ResNet-18; its 64-pixel images are enlarged to 224.

    python -m recu_jax.main --config=configs/tiny_imagenet.py --config.data_dir=tiny-imagenet-200

`data_dir` is the folder as it is distributed (train/CLASS/images, val/val_annotations.txt), or a folder with val/CLASS.

Hardware: a GPU or TPU. The hours are not known, because this config was run here on neither.
Expected: not known; this config was not run here, and the paper has no Tiny-ImageNet result.
"""

from recu_jax.config import base_config


def get_config():
    config = base_config()
    config.dataset = "tiny_imagenet"
    config.num_workers = 8
    config.train_crop = "resize"
    config.eval_resize = 224
    config.rotation_degrees = 20.0
    config.model = "imagenet_resnet18"
    config.epochs = 200
    config.batch_size = 256
    config.weight_decay = 1e-4
    config.weight_decay_on = "conv_and_linear"
    return config
