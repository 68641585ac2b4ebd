"""CIFAR-10 with a 1-bit ResNet-20 in 100 epochs: a full-precision teacher, then two stages that learn from it.

The teacher has real weights and activations. Stage 1 starts from it, with binary activations and real weights. Stage 2
starts from stage 1, and is the 1-bit network. Its latent weights are trained by Muon. All have RPReLU.

    python -m recu_jax.main --config=configs/cifar10_two_stage.py:teacher --config.data_dir=DIR
    python -m recu_jax.main --config=configs/cifar10_two_stage.py:stage1 --config.data_dir=DIR
    python -m recu_jax.main --config=configs/cifar10_two_stage.py:stage2 --config.data_dir=DIR

Each is a run of its own. After an interruption, the same command continues it. If you gave the teacher or stage 1 a
--workdir, pass that folder on as `--config.teacher` and `--config.init_from`.

Hardware: at the speed of the trials, one core of an AMD EPYC takes 66 minutes for the teacher, 2.4 hours for stage 1
and 2.5 hours for stage 2. It was not run on a GPU.
Expected: 81.9% test top-1 on CIFAR-10 (JPEG q75), one seed. The paper's recipe has 83.6% after 600 epochs, and 80.5%
after 80. Record: experiments/results/cifar10_resnet20_two_stage/.
"""

from recu_jax.config import base_config
from recu_jax.errors import unknown


def get_config(stage="teacher"):
    config = base_config()
    config.dataset = "cifar10"
    config.model = "cifar_resnet20"
    config.nonlinearity = "rprelu"
    config.batch_size = 64
    config.crop_padding = 2
    config.warmup_epochs = 1
    if stage != "teacher":
        config.teacher = "runs/cifar10_two_stage_teacher"
        config.teacher_model = config.model
        config.teacher_nonlinearity = config.nonlinearity
    if stage == "teacher":
        config.conv = "float"
        config.epochs = 20
        config.learning_rate = 0.05
    elif stage == "stage1":
        config.conv = "binary_activations"
        config.init_from = config.teacher
        config.epochs = 30
        config.learning_rate = 0.05
    elif stage == "stage2":
        config.init_from = "runs/cifar10_two_stage_stage1"
        config.epochs = 50
        config.learning_rate = 0.03
        config.latent_optimizer = "muon"
        config.latent_learning_rate = 0.0025
    else:
        raise unknown("the stage of configs/cifar10_two_stage.py", stage, ("teacher", "stage1", "stage2"))
    return config
