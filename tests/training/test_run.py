"""Tests what a run prepares before its first step, and at which step it begins."""

import jax
import numpy as np
import pytest

from recu_jax import UserError, data
from recu_jax.config.fields import plain
from recu_jax.training.checkpoint import Checkpoints
from recu_jax.training.run import find_start, prepare, prepare_evaluation, read_given_variables
from tests.support.small_runs import dataset, digits


def test_the_devices_become_a_part_of_the_config():
    config = digits()
    config.num_devices = None
    run = prepare(config)
    assert run.config.num_devices == len(run.devices) == len(jax.devices()) == 4 and config.num_devices is None
    assert run.feed.steps_per_epoch == 1437 // config.batch_size and run.feed.image_shape == (8, 8, 1)


def test_before_the_images_are_read_it_says_so(tmp_path, capsys, monkeypatch):
    """Reading them may take a minute, or longer from a disk that hangs."""
    few = dataset(8, 1)
    arrays = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "a.npz", **{name: getattr(few, name) for name in arrays})
    said, load = [], data.load

    def loaded(*arguments):
        said.append(capsys.readouterr().out)
        return load(*arguments)

    monkeypatch.setattr(data, "load", loaded)
    for fields, where in (({}, ""), ({"dataset": "npz", "data_dir": str(tmp_path / "a.npz")}, f" in {tmp_path}/a.npz")):
        prepare(digits(**fields), announced_workdir="runs/x")
        assert said.pop().endswith(f" kernels; workdir runs/x; reading the images{where}\n")
        assert "test images, 8x8x1" in capsys.readouterr().out


def test_held_out_images_take_the_place_of_the_test_images_in_training_alone(capsys):
    config = digits(held_out=37)
    run = prepare(config, announced_workdir="runs/x")
    assert "1400 training and 37 test images (held out of the training images), 8x8x1" in capsys.readouterr().out
    assert run.feed.steps_per_epoch == 1400 // config.batch_size and len(run.feed.test_sample(1000)) == 37
    assert len(prepare_evaluation(config, None).feed.test_sample(1000)) == 360


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_devices": 7}, "config.num_devices is 7; this machine has 4"),
        ({"num_devices": 4, "batch_size": 66}, "config.batch_size is 66, which does not divide over 4 devices"),
        ({"num_devices": 4, "eval_batch_size": 30}, "config.eval_batch_size is 30, which does not divide over 4"),
        ({"batch_size": 1438}, "config.batch_size is 1438; digits has only 1437 training images"),
        ({"crop_padding": 8}, "config.crop_padding is 8 and images are 8x8"),
    ],
)
def test_what_does_not_fit_devices_or_data(fields, message):
    with pytest.raises(UserError, match=message):
        prepare(digits(**fields))


def test_a_new_run_begins_and_an_old_one_goes_on(tmp_path):
    run = prepare(digits(model="digits_resnet8"))
    given = read_given_variables(run, tmp_path)
    start = find_start(run, tmp_path, given.first)
    assert (start.epoch, start.metrics.steps, start.resumed, given.teacher) == (0, 0, None, {})
    assert start.state is given.first and int(start.state.step) == 0

    # The run was stopped within the second epoch. An epoch has 44 steps.
    state = jax.device_get(start.state).replace(step=np.int32(47))
    unfinished = {"epoch": 2, "loss": [0.5, 0.25, 0.125], "top1": [1.0, 2.0, 3.0]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, plain(run.config), {"epoch": 2}, unfinished)
    assert read_given_variables(run, tmp_path).first is None
    resumed = find_start(run, tmp_path, None)
    assert (resumed.epoch, resumed.metrics.steps, resumed.resumed.step) == (1, 3, 47)
    assert resumed.metrics.means() == {"loss": 0.875 / 3, "top1": 2.0}
    jax.tree.map(np.testing.assert_array_equal, resumed.state.params, state.params)

    other = prepare(digits(model="digits_resnet8", learning_rate=0.3))
    for call in (lambda: read_given_variables(other, tmp_path), lambda: find_start(other, tmp_path, None)):
        with pytest.raises(UserError, match=r"learning_rate was 0.1 and is 0.3; give these fields their old values"):
            call()
