"""Tests runs that start from another run or learn from one: two stages and a teacher, on the digits."""

import functools

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import recu_jax
from configs.digits import get_config
from recu_jax import UserError, create_model, layers
from recu_jax.data import load as load_data
from recu_jax.pytorch.names import to_torch
from recu_jax.training import loop
from recu_jax.training.checkpoint import read_best, saved
from recu_jax.training.pretrained import first_state, load_variables, merge, read_init_from, teacher_variables
from recu_jax.training.recipe import make_recipe
from recu_jax.training.run import prepare, read_given_variables
from recu_jax.training.step import create_state
from tests.support import bad_files, one_block
from tests.support.small_runs import recorded

IMAGE = (8, 8, 1)
# Not the model's own nonlinearity. It has no variables, so only the outputs show which one the teacher has.
TAUGHT = {"teacher_model": "digits_resnet8", "teacher_nonlinearity": "identity"}
SPLITS, ARRAYS = ("train", "test"), ("images", "labels")


def digits(**changes):
    c = get_config()
    c.epochs, c.num_devices, c.tensorboard = 1, 1, False
    for name, value in changes.items():
        c[name] = value
    return c


def small(**changes):
    """Returns a config for the smallest network. It compiles in a third of the time of `digits_resnet8`."""
    return digits(model=one_block.MODEL, **changes)


def recipe_of(config):
    return make_recipe(config, load_data("digits"), 44)


def started(config):
    recipe = recipe_of(config)
    return first_state(config, recipe, IMAGE, read_init_from(config, recipe, IMAGE))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trains a full-precision teacher, and two stages that learn from it. The second starts from the first."""
    folder = tmp_path_factory.mktemp("stages")
    paths = {name: str(folder / name) for name in ("teacher", "stage1", "stage2")}
    taught = {**TAUGHT, "teacher": paths["teacher"], "report": False}
    results = {
        "teacher": loop.train(digits(conv="float", nonlinearity="identity", report=False), paths["teacher"]),
        "stage1": loop.train(small(conv="binary_activations", **taught), paths["stage1"]),
        "stage2": loop.train(small(init_from=paths["stage1"], **taught), paths["stage2"]),
    }
    return paths, results


@pytest.mark.slow
@pytest.mark.parametrize("start,config_of,alphas", [("stage1", small, 2), ("teacher", digits, 6)])
def test_real_weights_are_started_from(runs, start, config_of, alphas):
    paths, results = runs
    config = config_of(init_from=paths[start])
    state = started(config)
    fresh = started(config_of())
    given = flatten_dict(results[start].state.params)
    assert not any(path[-1] == "alpha" for path in given)
    scales = 0
    for path, value in flatten_dict(state.params).items():
        if path[-1] == "alpha":
            scales += 1
            np.testing.assert_array_equal(value, flatten_dict(fresh.params)[path])
        else:
            np.testing.assert_array_equal(value, given[path])
    assert scales == alphas and int(state.step) == 0


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
    # The student is full precision, so that no sign depends on rounding.
    config = small(
        conv="float", teacher=paths["teacher"], **TAUGHT, augment=False, batch_size=40,
        dtype="float64", dataset="npz", data_dir=str(tmp_path / "few.npz"), eval_batch_size=40,
    )  # fmt: skip
    data = load_data("npz", config.data_dir)
    recipe = make_recipe(config, data, 1)
    teacher = teacher_variables(config, recipe, IMAGE)
    float_model = create_model("digits_resnet8", conv=layers.Conv, nonlinearity="identity", param_dtype=np.float64)
    x = (data.train_images / 255 - data.mean[0]) / data.std[0]
    state = jax.tree.map(np.float64, results["teacher"].state)
    logits = float_model.apply({"params": state.params, "batch_stats": state.batch_stats}, x)
    np.testing.assert_allclose(recipe.teacher.apply(teacher, x), logits, rtol=1e-9, atol=1e-9)

    student = first_state(config, recipe, IMAGE, None)
    variables = {"params": student.params, "batch_stats": student.batch_stats}
    ours, _ = recipe.model.apply(variables, x, tau=0.85, train=True, mutable=["batch_stats"])
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    shifted = np.asarray(ours) - np.asarray(ours).max(1, keepdims=True)
    expected = -(softmax * (shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))).sum(1).mean()
    first = loop.train(config, tmp_path / "taught").final
    np.testing.assert_allclose(first["train_loss"], expected, rtol=1e-8)


@pytest.mark.slow
def test_what_does_not_fit_is_named(runs, tmp_path):
    paths, _ = runs
    with pytest.raises(UserError, match="holds a run of model 'digits_resnet8'; it must be 'cifar_resnet20'"):
        load_variables(paths["teacher"], "cifar_resnet20")
    # A teacher must be full-precision. A 1-bit run is refused.
    config = digits(teacher=str(bad_files.workdir(tmp_path)), **TAUGHT)
    with pytest.raises(UserError, match="a run with conv 'binary', and a teacher is full precision"):
        teacher_variables(config, recipe_of(config), IMAGE)


def test_given_variables_take_the_place_of_fresh_ones():
    fresh = {"params": {"a": {"kernel": np.zeros((2, 3), np.float32), "alpha": np.ones(3)}}, "batch_stats": {}}
    given = {"params": {"a": {"kernel": np.arange(6.0).reshape(2, 3)}}}
    merged = merge(fresh, given, "FILE", may_lack=("alpha",))
    assert merged["params"]["a"]["kernel"].dtype == np.float32 and merged["batch_stats"] == {}
    np.testing.assert_array_equal(merged["params"]["a"]["kernel"], given["params"]["a"]["kernel"])
    np.testing.assert_array_equal(merged["params"]["a"]["alpha"], 1)


def test_entries_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="does not exist; give the workdir of a run, a PyTorch file"):
        load_variables("/no/such/run", "digits_resnet8")
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
    given = load_variables(paths["teacher"], "digits_resnet8")
    assert functools.reduce(lambda n, a: n + a.size, jax.tree.leaves(given["params"]), 0) > 10_000


def of_five_classes(folder):
    """Writes images of the digits 0 to 4 and a network of all ten classes. Returns config fields for a run on them."""
    d = load_data("digits")
    few = {f"{s}_images": getattr(d, f"{s}_images")[getattr(d, f"{s}_labels") < 5][:64] for s in SPLITS}
    few |= {f"{s}_labels": getattr(d, f"{s}_labels")[getattr(d, f"{s}_labels") < 5][:64] for s in SPLITS}
    np.savez(folder / "five.npz", **few)
    fields = {"dataset": "npz", "data_dir": str(folder / "five.npz"), "batch_size": 32, "warmup_epochs": 0}
    return {**fields, "init_from": str(bad_files.workdir(folder)), "report": False, "diagnostics": False}


def test_a_network_of_other_classes_gets_a_fresh_last_layer(tmp_path):
    fields = of_five_classes(tmp_path)
    with pytest.raises(UserError) as error:
        loop.train(digits(**fields), tmp_path / "run")
    for part in ("imported has 10 classes and npz has 5", "--config.fresh_head=True", "--config.freeze="):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()
    run = prepare(digits(**fields, fresh_head=True))
    state = read_given_variables(run, tmp_path / "run").first
    fresh = create_state(run.recipe, 0, IMAGE)
    assert state.params["linear"]["kernel"].shape == (128, 5)
    for path, value in flatten_dict(state.params).items():
        expected = flatten_dict(fresh.params)[path] if path[0] == "linear" else np.ones(value.shape)
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"optimizer": "adam"}, {"optimizer": "bop", "weight_binarizer": "xnor_net"}])
def test_frozen_parameters_stay_bit_for_bit(tmp_path, fields):
    """Frozen parameters stay in spite of momentum, weight decay and flips of Bop. All others move."""
    fields |= {**of_five_classes(tmp_path), "fresh_head": True, "bop_gamma": 0.5, "bop_threshold": 0.0}
    c = digits(**fields, freeze="layer1*, conv1,*bn2/scale", weight_decay=0.1, epochs=2)
    before = flatten_dict(read_given_variables(prepare(c), tmp_path / "run").first.params)
    after = flatten_dict(loop.train(c, tmp_path / "run").state.params)
    for path, value in before.items():
        frozen = path[0].startswith(("layer1", "conv1")) or path[-2:] == ("bn2", "scale")
        assert frozen == np.array_equal(after[path], value), path
    # The config of the run has the patterns, so a resumed run freezes the same parameters.
    loop.train(c, tmp_path / "run")


@pytest.mark.slow
def test_variables_for_ones_own_loop(tmp_path):
    workdir = bad_files.workdir(tmp_path)
    found = recu_jax.load_variables(workdir)
    jax.tree.map(np.testing.assert_array_equal, found, bad_files.ones())
    logits = create_model("digits_resnet8").apply(found, np.zeros((2, *IMAGE), np.float32))
    assert logits.shape == (2, 10)
    with pytest.raises(UserError, match="holds a run of model 'digits_resnet8'; it must be 'cifar_resnet20'"):
        recu_jax.load_variables(workdir, "cifar_resnet20")
    with pytest.raises(UserError, match="does not exist; give the workdir of a run, a PyTorch file"):
        recu_jax.load_variables(tmp_path / "none")


@pytest.mark.slow
def test_variables_of_a_file_need_no_name(tmp_path):
    variables = jax.tree.map(lambda a: a * 2, bad_files.ones())
    arrays = {f"net.{k}": v for k, v in to_torch("digits_resnet8", variables).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    jax.tree.map(np.testing.assert_array_equal, recu_jax.load_variables(tmp_path / "x.safetensors"), variables)
    safetensors.numpy.save_file({"a.weight": np.ones((2, 2), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors fits no model of this library; give the name of its model"):
        recu_jax.load_variables(tmp_path / "x.safetensors")


def test_a_prefix_is_said_where_a_run_starts(tmp_path, capsys):
    arrays = {f"net.{k}": v for k, v in to_torch("digits_resnet8", bad_files.ones()).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    config = digits(init_from=str(tmp_path / "x.safetensors"))
    started(config)
    said = capsys.readouterr().out
    assert f"{tmp_path}/x.safetensors: names without their prefix 'net.'\n" in said
    assert f"starting from the variables of {tmp_path}/x.safetensors\n" in said


def test_averages_are_read_from_a_run_and_begin_with_what_was_read(tmp_path):
    """`recorded` changes the parameters but not their averages, so the two differ."""
    model = {"model": "tests.support.own_module:WithBatchNorm"}
    workdir = recorded(digits(ema_decay=0.9, **model), tmp_path / "run")
    state, read = saved(workdir)[-1].state(), load_variables(workdir)
    jax.tree.map(np.testing.assert_array_equal, read, dict(state["ema"]))
    assert (state["params"]["first"]["kernel"] != read["params"]["first"]["kernel"]).all()

    run = prepare(digits(ema_decay=0.9, init_from=str(workdir), seed=1, **model))
    first = read_given_variables(run, tmp_path / "next").first
    for variables in (first.variables, first.ema):
        jax.tree.map(np.testing.assert_array_equal, variables, read)
