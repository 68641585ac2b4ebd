"""Runs models and binarizers of a user's own module through the command line."""

import functools
import shutil

import cv2
import jax
import jax.numpy as jnp
import pytest

from configs.digits import get_config
from recu_jax import BinaryConv, UserError, create_model, load_variables
from recu_jax.config.fields import check_config
from recu_jax.data import digits
from recu_jax.training import recipe
from tests.support import ROOT, commands, own_module, small_runs

OWN = "tests.support.own_module:"


def make_recipe(**fields):
    config = get_config()
    config.update(fields)
    check_config(config)
    return recipe.make_recipe(config, small_runs.dataset(8, 1), steps_per_epoch=2)


def test_the_factory_gets_what_it_takes():
    made = make_recipe(model=f"{OWN}Net", weight_binarizer=f"{OWN}Identity", alpha="none", dtype="float32").model
    assert isinstance(made, own_module.Net) and made.num_classes == 10
    assert made.conv.keywords["kernel_binarizer"] == own_module.Identity() and made.conv.func is BinaryConv
    for name in ("Fixed", "net"):
        assert isinstance(make_recipe(model=f"{OWN}{name}").model, own_module.Net)
    assert create_model(f"{OWN}Net", 7).num_classes == 7
    with pytest.raises(UserError, match="unexpected keyword argument 'param_dtype'"):  # it must not be dropped silently
        create_model(f"{OWN}Net", param_dtype=jnp.float64)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model": "nowhere:Net"}, "there is no module 'nowhere'"),
        ({"model": f"{OWN}Nett"}, "did you mean 'Net'"),
        ({"model": "net"}, "or 'module:name' of your own"),
        ({"model": f"{OWN}number"}, "it must be a Flax module, or a function, that takes num_classes="),
        ({"model": f"{OWN}no_model"}, "returns a str; it must return a Linen module"),
        ({"model": f"{OWN}without_classes"}, "or a function, that takes num_classes="),
        ({"model": f"{OWN}two_too_many"}, "returns (1, 12) for one image; it must return logits, (1, 10)"),
        ({"model": f"{OWN}Broken"}, "its init on images fails: TypeError"),
        ({"model": f"{OWN}Remembers"}, "with the collections ['cache']"),
        ({"model": f"{OWN}Fixed", "alpha": "none"}, "config.alpha is 'none', and config.model"),
        ({"model": f"{OWN}Fixed", "conv": "float"}, "takes no argument conv=; let it take conv="),
        ({"model": f"{OWN}Net", "global_batch_norm": True}, "takes no argument norm_axis="),
        ({"model": f"{OWN}Net", "dtype": "bfloat16"}, "takes no argument dtype="),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(UserError) as error:
        make_recipe(**fields)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_model_that_takes_no_tau_gets_it():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    model = own_module.Net(10)
    variables = model.init(jax.random.key(1), x)

    def gradient(tau):
        loss = lambda v: (recipe.own.in_training(model, v, x, tau, None)[0] ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(variables)["params"]["binary"]["kernel"]

    assert (gradient(jnp.float32(0.6)) != gradient(jnp.float32(1.0))).any()


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / "tests" / "support" / "own_module.py", tmp_path / "mine.py")
    return tmp_path


def test_a_mistake_is_one_line_of_the_command(folder):
    result = commands.run("summary", "--config=digits", "--config.model=mine:Nett", cwd=folder)
    assert result.returncode == 2 and "did you mean 'Net'" in commands.the_line(result.stderr)


def test_a_module_beside_a_config_in_another_folder(folder):
    (folder / "mine.py").rename(folder / "beside_the_config.py")
    (folder / "elsewhere").mkdir()
    (folder / "my_config.py").write_text(
        "from recu_jax.config import load\n"
        "def get_config():\n    return load('digits', model='beside_the_config:Net')\n"
    )
    result = commands.run("summary", "--config=../my_config.py", cwd=folder / "elsewhere")
    assert (result.returncode, result.stderr) == (0, "") and "beside_the_config:Net" in result.stdout
    result = commands.run(
        "summary", "--config=digits", "--config.model=beside_the_config:Net", cwd=folder / "elsewhere"
    )
    assert result.returncode == 2 and "beside the config file" in commands.the_line(result.stderr)


@pytest.mark.slow
def test_a_run_its_evaluation_report_and_file(folder):
    own = ["--config=digits", "--config.epochs=1", "--workdir=run", "--config.activation_binarizer=mine:wide"]
    own += ["--config.weight_binarizer=mine:Identity"]
    model = "--config.model=mine:Net"
    for command in (["train", *own, model], ["eval", *own, model], ["report", "run", "--out=report.html"]):
        result = commands.run(*command, cwd=folder)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert "mine:Identity" in (folder / "report.html").read_text()
    _check_predictions(folder)
    result = commands.run("export", "run", "--out=net.recu", cwd=folder)
    assert result.returncode == 2 and "`recu predict WORKDIR` runs it" in commands.the_line(result.stderr)
    result = commands.run("eval", *own, cwd=folder)
    assert result.returncode == 2 and "holds a run with model='mine:Net'" in commands.the_line(result.stderr)

    # A model of recu_jax with the user's own binarizers can be exported. The file gives the same predictions.
    own[2] = "--workdir=of_ours"
    assert commands.run("train", *own, cwd=folder).returncode == 0
    result = commands.run("export", "of_ours", "--out=ours.recu", "--check", cwd=folder)
    assert result.returncode == 0 and " 0 differing predictions" in result.stdout


def _check_predictions(folder):
    """Compares `recu predict` on the run with the run's model and variables, called without the trainer."""
    data = digits.load()
    pictures = [f"{i}.png" for i in range(6)]
    for name, image in zip(pictures, data.test_images, strict=False):
        cv2.imwrite(str(folder / name), image)
    result = commands.run("predict", "run", *pictures, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    net = own_module.Net(
        10, conv=functools.partial(BinaryConv, kernel_binarizer=own_module.Identity(), input_binarizer=own_module.wide)
    )
    x = (data.test_images[:6] / 255 - data.mean[0]) / data.std[0]
    logits = net.apply(load_variables(folder / "run"), x.astype("f"))
    best = jax.nn.softmax(logits).max(1), logits.argmax(1)
    expected = [f"{name}: {k} {p:.1%}" for name, p, k in zip(pictures, *best, strict=True)]
    assert [line.partition(",")[0] for line in result.stdout.splitlines()] == expected
