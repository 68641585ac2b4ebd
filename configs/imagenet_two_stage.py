"""ImageNet in two stages with a teacher, ReActNet's recipe with ReCU.

Stage 1 trains a network with binary activations and real weights. Stage 2 starts from stage 1's best checkpoint, and
binarizes activations and weights.

    python -m recu_jax.main --config=configs/imagenet_two_stage.py:stage1 --config.data_dir=DIR --config.teacher=FILE
    python -m recu_jax.main --config=configs/imagenet_two_stage.py:stage2 --config.data_dir=DIR --config.teacher=FILE

`DIR` is as in configs/imagenet.py. `FILE` is torchvision's state_dict of a ResNet-34, or the workdir of a recu_jax run
of the model `resnet34`. Each stage is a run of its own. After an interruption, the same command continues the run. If
you gave stage 1 a --workdir, pass that folder to stage 2 as `--config.init_from`.

Hardware: a GPU or TPU. The hours are not known, because this config was run here on neither.
Expected: 66.4% test top-1 in the paper (SPEC.md section 8); not run in full here. Record of a run on 200
images: experiments/results/imagenet_200_photographs/.
"""

from recu_jax.config import base_config
from recu_jax.errors import unknown


def get_config(stage="stage1"):
    config = base_config()
    config.dataset = "imagenet2012"
    config.num_workers = 8
    config.model = "react_resnet18"
    config.epochs = 256
    config.batch_size = 512
    config.optimizer = "adam"
    config.teacher_model = "resnet34"
    config.weight_decay_on = "conv_and_linear"
    if stage == "stage1":
        config.conv = "binary_activations"
        config.learning_rate = 5e-4
        config.lr_schedule = "linear"
        config.warmup_epochs = 0
        config.weight_decay = 1e-5
    elif stage == "stage2":
        config.init_from = "runs/imagenet_two_stage_stage1"
        config.learning_rate = 1e-3
        config.weight_decay = 0.0
    else:
        raise unknown("the stage of configs/imagenet_two_stage.py", stage, ("stage1", "stage2"))
    return config
