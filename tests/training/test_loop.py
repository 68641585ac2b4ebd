"""Trains, resumes, evaluates and exports whole runs in this process, and tests runs that must be refused."""

import shutil

import jax
import numpy as np
import pytest

from recu_jax import UserError, create_model, deploy
from recu_jax.commands import export_torch
from recu_jax.data import from_record
from recu_jax.data import load as load_data
from recu_jax.deploy import check, trained
from recu_jax.training import loop
from recu_jax.training.checkpoint import read_best, saved
from tests.support.small_runs import digits, recorded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains two epochs with weights that have a scale, an annealed activation binarizer, RPReLU and Bop."""
    folder = tmp_path_factory.mktemp("runs")
    fields = {
        "weight_binarizer": "xnor_net", "activation_binarizer": "ede", "nonlinearity": "rprelu",
        "optimizer": "bop", "learning_rate": 0.01, "bop_gamma": 1e-2, "weight_decay": 0.0, "epochs": 2,
    }  # fmt: skip
    return fields, folder, loop.train(digits(**fields), folder / "whole")


def test_bop_flips_signs_and_keeps_magnitudes(run):
    _, folder, result = run
    assert result.final["test_top1"] > 60
    first, last = (checkpoint.state()["params"] for checkpoint in saved(folder / "whole"))
    before, after = (np.asarray(p["layer1_0"]["conv1"]["kernel"]) for p in (first, last))
    np.testing.assert_array_equal(abs(before), abs(after))
    assert 0.001 < (before != after).mean() < 0.5
    assert (np.asarray(first["conv1"]["kernel"]) != np.asarray(last["conv1"]["kernel"])).all()


def test_resumed_and_evaluated_as_never_stopped(run):
    fields, folder, result = run
    # The workdir of a run that was stopped after its first epoch.
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped" / "checkpoints" / str(saved(folder / "stopped")[-1].step))
    resumed = loop.train(digits(**fields), folder / "stopped")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, result.state)
    assert loop.evaluate(digits(**fields), folder / "whole")["test_top1"] == result.best["test_top1"]


@pytest.mark.parametrize(
    "field,value,was",
    [
        ("weight_binarizer", "dorefa", "xnor_net"),
        ("activation_binarizer", "approx_sign", "ede"),
        ("nonlinearity", None, "rprelu"),
    ],
)
def test_another_pair_is_refused(run, field, value, was):
    fields, folder, _ = run
    other = digits(**{**fields, field: value})
    with pytest.raises(UserError, match=f"holds a run with {field}='{was}', the config says {value!r}"):
        loop.evaluate(other, folder / "whole")
    with pytest.raises(UserError, match=f"{field} was '{was}' and is {value!r}"):
        loop.train(other, folder / "whole")


def test_its_file_gives_what_it_gives(run, tmp_path):
    best = trained.read_trained(run[1] / "whole")
    trained.write(best, tmp_path / "digits.recu")
    assert check.check(best, tmp_path / "digits.recu").startswith("360 test images: 0 differing predictions")
    with pytest.raises(UserError, match="nonlinearity='rprelu'; the authors' code knows ReCU and its own models alone"):
        export_torch.export(run[1] / "whole", tmp_path / "x.pth")


# Averages, micro-batches, smoothed labels and mixup.
FEATURES = {
    "ema_decay": 0.95, "gradient_accumulation_steps": 2, "label_smoothing": 0.1, "mixup_alpha": 0.2, "epochs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Trains two epochs with all of FEATURES."""
    workdir = tmp_path_factory.mktemp("averaged") / "whole"
    return workdir, loop.train(digits(**FEATURES), workdir)


def test_a_run_with_averages_goes_on_as_never_stopped(averaged, tmp_path):
    workdir, result = averaged
    shutil.copytree(workdir, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / str(saved(workdir)[-1].step))
    resumed = loop.train(digits(**FEATURES), tmp_path / "stopped")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, result.state)
    assert int(result.state.step) == 88
    with pytest.raises(UserError, match=r"ema_decay was 0.95 and is 0.0; give these fields their old values"):
        loop.train(digits(**{**FEATURES, "ema_decay": 0.0}), workdir)


def test_the_averages_are_evaluated_read_and_exported(averaged, tmp_path, capsys):
    workdir, result = averaged
    row = result.best
    assert row["raw_test_loss"] != row["test_loss"] and {"raw_test_top1", "raw_test_top5"} <= row.keys()
    best = next(c for c in saved(workdir) if c.step == row["step"])
    state, (_, record, variables) = best.state(), read_best(workdir)
    assert record["metrics"]["test_top1"] == row["test_top1"] > 60
    jax.tree.map(np.testing.assert_array_equal, variables, dict(state["ema"]))
    d, model = load_data("digits"), create_model("digits_resnet8")
    x = ((d.test_images / 255 - d.mean[0]) / d.std[0]).astype(np.float32)
    for given, name in ((variables, "test_top1"), ({k: state[k] for k in variables}, "raw_test_top1")):
        hits = np.asarray(jax.jit(model.apply)(given, x)).argmax(1) == d.test_labels
        assert 100 * hits.mean() == pytest.approx(row[name], abs=0.3)
    assert loop.evaluate(digits(**FEATURES), workdir)["test_top1"] == row["test_top1"]
    found = trained.read_trained(workdir)
    trained.write(found, tmp_path / "digits.recu")
    assert check.check(found, tmp_path / "digits.recu").startswith("360 test images: 0 differing predictions")


# Missing data: a run on some of the digits, and its use where its data set is missing.


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Writes a run, without training, on an `npz` whose training images are dark, and removes the `npz`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    d = load_data("digits")
    arrays = {"train_images": d.train_images[:300] // 2, "train_labels": d.train_labels[:300]}
    arrays |= {"test_images": d.test_images[:100], "test_labels": d.test_labels[:100]}
    np.savez(folder / "ten.npz", **arrays)
    recorded(digits(model="digits_resnet8", dataset="npz", data_dir=str(folder / "ten.npz")), folder / "run")
    (folder / "ten.npz").unlink()
    return folder, arrays


def test_the_run_records_what_a_network_needs_of_its_data(elsewhere):
    folder, arrays = elsewhere
    info = from_record(read_best(folder / "run")[1], folder)
    assert (info.name, info.image_shape, info.class_names) == ("npz", (8, 8, 1), tuple("0123456789"))
    np.testing.assert_allclose(info.mean, (arrays["train_images"] / 255).mean(), rtol=1e-6)
    np.testing.assert_allclose(info.std, (arrays["train_images"] / 255).std(), rtol=1e-6)


def test_evaluated_on_another_data_set_with_its_own_normalization(elsewhere, capsys):
    folder, arrays = elsewhere
    d, pixels = load_data("digits"), arrays["train_images"] / 255
    _, _, variables = read_best(folder / "run")

    def logits_of(mean, std):
        x = ((d.test_images / 255 - mean) / std).astype(np.float32)
        return np.asarray(jax.jit(create_model("digits_resnet8").apply)(variables, x), np.float64)

    logits = logits_of(pixels.mean(), pixels.std())
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(chances[np.arange(360), d.test_labels]).mean()
    assert abs(logits_of(d.mean[0], d.std[0]) - logits).max() > 0.1  # the other normalization would give other logits
    found = loop.evaluate(digits(model="digits_resnet8"), folder / "run")
    assert found["test_images"] == 360 and found["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert "evaluating on digits with the normalization of npz, on which the run was trained" in capsys.readouterr().out


@pytest.mark.slow
def test_evaluated_and_exported_with_test_images_from_elsewhere(elsewhere, tmp_path):
    folder, arrays = elsewhere
    trained.write(trained.read_trained(folder / "run"), tmp_path / "run.recu")  # this needs no images
    file = deploy.load(tmp_path / "run.recu")
    right = np.asarray(file.predict(arrays["test_images"])).argmax(1) == arrays["test_labels"]
    np.savez(tmp_path / "test.npz", **{k: v for k, v in arrays.items() if k.startswith("test")})
    moved = digits(model="digits_resnet8", dataset="npz", data_dir=str(tmp_path / "test.npz"))
    assert loop.evaluate(moved, folder / "run")["test_top1"] == pytest.approx(100 * right.mean())
    for other in ({"data_dir": str(tmp_path / "test.npz")}, {"dataset": "digits"}):
        said = check.check(trained.read_trained(folder / "run", **other), tmp_path / "run.recu")
        assert f"{360 if 'dataset' in other else 100} test images: 0 differing predictions" in said
    assert file.header.class_names == tuple("0123456789")


def test_data_that_does_not_fit_the_run_is_refused(elsewhere, tmp_path):
    folder, arrays = elsewhere
    images = np.repeat(arrays["test_images"], 3, -1)
    np.savez(tmp_path / "rgb.npz", **(arrays | {"test_images": images, "train_images": images}))
    c = digits(model="digits_resnet8", dataset="npz", data_dir=str(tmp_path / "rgb.npz"))
    with pytest.raises(UserError, match="npz has images of 8x8x3; the run was trained on 8x8x1 of npz"):
        loop.evaluate(c, folder / "run")
    with pytest.raises(UserError, match=r"ten.npz', where there is no file"):
        trained.read_trained(folder / "run").load_test()
