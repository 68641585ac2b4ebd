"""Compares recorded training runs with the configs that ship, and with the figures that these configs state."""

import json
import statistics

import pytest

from recu_jax.config import load
from recu_jax.config.fields import plain
from tests.support import ROOT

RESULTS = ROOT / "experiments/results"
FAST = "cifar10_resnet20_fast"
SEEDS = [f"{FAST}/seed{seed}" for seed in range(3)]
OTHERS = "cifar10_other_networks"
# Where data and other runs lie, how many images are tested at once, on how many devices, and which files are written.
NOT_OF_THE_RECIPE = {
    "dataset", "data_dir", "teacher", "init_from", "eval_batch_size", "num_devices", "report", "tensorboard"
}  # fmt: skip
# For each record: the config, and the fields that its command changed.
CONFIGS = {
    **{name: ("cifar10_fast", {"seed": seed}) for seed, name in enumerate(SEEDS)},
    f"{FAST}/paper": ("cifar10", {"epochs": 15}),
    "cifar10_resnet20_rprelu_muon_80_epochs": (
        "cifar10_fast", {"epochs": 80, "latent_learning_rate": 0.01, "learning_rate": 0.03}
    ),
    **{
        f"{OTHERS}/{name}_fast": ("cifar10_fast", {"model": f"cifar_{name}", "epochs": 2, "learning_rate": rate})
        for name, rate in (("resnet18", 0.01), ("vgg_small", 0.003))
    },
    **{
        f"{OTHERS}/{name}_paper": (
            "cifar10", {"model": f"cifar_{name}", "epochs": 2, "warmup_epochs": 1, "learning_rate": rate}
        )
        for name, rate in (("resnet18", 0.02), ("vgg_small", 0.01))
    },
    "cifar10_resnet20_two_stage/teacher": ("cifar10_two_stage:teacher", {}),
    "cifar10_resnet20_two_stage/stage1_seed0": ("cifar10_two_stage:stage1", {}),
    "cifar10_resnet20_two_stage/stage2_seed0": ("cifar10_two_stage:stage2", {}),
}  # fmt: skip


def last(name):
    """Returns test top-1 after the last epoch of a recorded run."""
    return json.loads((RESULTS / name / "metrics.jsonl").read_text().splitlines()[-1])["test_top1"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_has_the_fields_of_its_config(name):
    config, changed = CONFIGS[name]
    expected = json.loads(json.dumps(plain(load(config, **changed))))
    recorded = json.loads((RESULTS / name / "run.json").read_text())["config"]
    # Fields that are newer than the run are off by default.
    same = expected.keys() & recorded.keys() - NOT_OF_THE_RECIPE
    assert len(same) > 60
    assert {field: recorded[field] for field in same} == {field: expected[field] for field in same}


@pytest.mark.parametrize("file", ["configs/cifar10_fast.py", "docs/training_well.md", "README.md"])
def test_the_stated_mean_is_that_of_the_seeds(file):
    tops = [last(name) for name in SEEDS]
    assert f"{statistics.mean(tops):.1f} ± {statistics.stdev(tops):.1f}" in (ROOT / file).read_text()
    assert f"{last(f'{FAST}/paper'):.1f}" in (ROOT / file).read_text()


def test_the_stated_figure_of_the_two_stages():
    stated = (ROOT / "configs/cifar10_two_stage.py").read_text()
    assert f"{last('cifar10_resnet20_two_stage/stage2_seed0'):.1f}% test top-1" in stated


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(OTHERS)])
def test_the_stated_figures_of_other_networks(name):
    recorded = json.loads((RESULTS / name / "run.json").read_text())["config"]
    recipe = "`configs/cifar10_fast.py`" if name.endswith("_fast") else "the paper's"
    begins = f"| `{recorded['model']}` | {recipe} | {recorded['learning_rate']} |"
    for file, digits in ((RESULTS / OTHERS / "README.md", 2), (ROOT / "docs/training_well.md", 1)):
        (row,) = [line for line in file.read_text().splitlines() if line.startswith(begins)]
        assert f"{last(name):.{digits}f}" in row
