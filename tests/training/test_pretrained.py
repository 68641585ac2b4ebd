"""Starting from another run, and learning from one: two stages and a teacher, on the digits."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.digits import get_config
from recu_jax import UserError, create_model, layers
from recu_jax.data import load as load_data
from recu_jax.training import loop
from recu_jax.training.checkpoint import read_best
from recu_jax.training.pretrained import first_state, load, merge, teacher_variables
from recu_jax.training.recipe import make_recipe

IMAGE = (8, 8, 1)
SPLITS, ARRAYS = ("train", "test"), ("images", "labels")


def digits(**changes):
    c = get_config()
    c.epochs, c.num_devices, c.tensorboard = 1, 1, False
    c.model = "digits_resnet8"
    for name, value in changes.items():
        c[name] = value
    return c


def recipe_of(config):
    return make_recipe(config, load_data("digits"), 44)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A full-precision run, a first stage that it teaches, and a second stage that starts from there."""
    folder = tmp_path_factory.mktemp("stages")
    paths = {name: str(folder / name) for name in ("teacher", "stage1", "stage2")}
    taught = {"teacher": paths["teacher"], "teacher_model": "digits_resnet8"}
    results = {
        "teacher": loop.train(digits(conv="float"), paths["teacher"]),
        "stage1": loop.train(digits(conv="binary_activations", **taught), paths["stage1"]),
        "stage2": loop.train(digits(init_from=paths["stage1"], **taught), paths["stage2"]),
    }
    return paths, results


@pytest.mark.slow
@pytest.mark.parametrize("start", ["stage1", "teacher"])
def test_real_weights_are_started_from(runs, start):
    paths, results = runs
    config = digits(init_from=paths[start])
    state = first_state(config, recipe_of(config), IMAGE)
    fresh = first_state(digits(), recipe_of(digits()), IMAGE)
    given = flatten_dict(results[start].state.params)
    assert not any(path[-1] == "alpha" for path in given)
    scales = 0
    for path, value in flatten_dict(state.params).items():
        if path[-1] == "alpha":
            scales += 1
            np.testing.assert_array_equal(value, flatten_dict(fresh.params)[path])
        else:
            np.testing.assert_array_equal(value, given[path])
    assert scales == 6 and int(state.step) == 0


@pytest.mark.slow
def test_stage_2_goes_on_from_stage_1(runs):
    _, results = runs
    assert results["stage2"].final["train_top1"] > results["stage1"].final["train_top1"]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_first_loss_is_that_against_the_teacher(runs, tmp_path):
    paths, results = runs
    data = load_data("digits")
    few = {f"{split}_{what}": getattr(data, f"{split}_{what}")[:40] for split in SPLITS for what in ARRAYS}
    np.savez(tmp_path / "few.npz", **few)
    # A student with real weights: no sign of it hangs on rounding.
    config = digits(
        conv="float", teacher=paths["teacher"], teacher_model="digits_resnet8", augment=False, batch_size=40,
        dtype="float64", dataset="npz", data_dir=str(tmp_path / "few.npz"), eval_batch_size=40,
    )  # fmt: skip
    data = load_data("npz", config.data_dir)
    recipe = make_recipe(config, data, 1)
    teacher = teacher_variables(config, recipe, IMAGE)
    float_model = create_model("digits_resnet8", conv=layers.Conv, param_dtype=np.float64)
    x = (data.train_images / 255 - data.mean[0]) / data.std[0]
    state = jax.tree.map(np.float64, results["teacher"].state)
    logits = float_model.apply({"params": state.params, "batch_stats": state.batch_stats}, x)
    np.testing.assert_allclose(recipe.teacher.apply(teacher, x), logits, rtol=1e-9, atol=1e-9)

    student = first_state(config, recipe, IMAGE)
    variables = {"params": student.params, "batch_stats": student.batch_stats}
    ours, _ = recipe.model.apply(variables, x, tau=0.85, train=True, mutable=["batch_stats"])
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    shifted = np.asarray(ours) - np.asarray(ours).max(1, keepdims=True)
    expected = -(softmax * (shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))).sum(1).mean()
    first = loop.train(config, tmp_path / "taught").final
    np.testing.assert_allclose(first["train_loss"], expected, rtol=1e-8)


@pytest.mark.slow
def test_what_does_not_fit_is_named(runs):
    paths, _ = runs
    with pytest.raises(UserError, match="holds a run of model 'digits_resnet8'; it must be 'cifar_resnet20'"):
        load(paths["teacher"], "cifar_resnet20")
    # A 1-bit run is no full-precision teacher.
    config = digits(teacher=paths["stage2"], teacher_model="digits_resnet8")
    with pytest.raises(UserError, match="alpha is extra"):
        teacher_variables(config, recipe_of(config), IMAGE)


def test_given_variables_take_the_place_of_fresh_ones():
    fresh = {"params": {"a": {"kernel": np.zeros((2, 3), np.float32), "alpha": np.ones(3)}}, "batch_stats": {}}
    given = {"params": {"a": {"kernel": np.arange(6.0).reshape(2, 3)}}}
    merged = merge(fresh, given, "FILE", may_lack=("alpha",))
    assert merged["params"]["a"]["kernel"].dtype == np.float32 and merged["batch_stats"] == {}
    np.testing.assert_array_equal(merged["params"]["a"]["kernel"], given["params"]["a"]["kernel"])
    np.testing.assert_array_equal(merged["params"]["a"]["alpha"], 1)


def test_entries_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="does not exist; give the workdir of a run, or a PyTorch file"):
        load("/no/such/run", "digits_resnet8")
    fresh = {"params": {"a": {"kernel": np.zeros((2, 3))}, "b": {"kernel": np.zeros(1)}}}
    given = {"params": {"a": {"kernel": np.zeros((3, 2))}, "c": {"kernel": np.zeros(1)}}}
    with pytest.raises(UserError) as error:
        merge(fresh, given, "FILE")
    for part in ("params/b/kernel is missing", "params/c/kernel is extra", "(3, 2) and should be (2, 3)"):
        assert part in str(error.value)


@pytest.mark.slow
def test_the_best_checkpoint_is_taken(runs):
    paths, _ = runs
    assert read_best(paths["teacher"])[0] == 44
    given = load(paths["teacher"], "digits_resnet8")
    assert functools.reduce(lambda n, a: n + a.size, jax.tree.leaves(given["params"]), 0) > 10_000
