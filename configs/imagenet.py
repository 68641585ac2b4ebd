"""ImageNet with a 1-bit ResNet-18, 224 pixels, the recipe of the ReCU paper (SPEC.md section 7).

    python -m recu_jax.main --config=configs/imagenet.py --config.data_dir=DIR [--config.model=imagenet_resnet34]

`DIR` is TFDS's folder with imagenet2012 in array_record form. With --config.dataset=image_folder, DIR is a folder with
train/CLASS/*.JPEG and val/CLASS/*.JPEG. `--config.dtype=bfloat16` computes in bfloat16.

Hardware: a GPU or TPU. The training time is not known: nobody has run this config on either.
Expected: 61.0% test top-1 after 200 epochs in the paper, 65.1% with 34 layers (60.98 and 65.10 in SPEC.md section 8);
not run in full here. Record of a run on 200 images: experiments/results/imagenet_200_photographs/.
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
