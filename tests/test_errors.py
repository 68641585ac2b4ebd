"""Checks error messages. Those about unknown names list the valid names, and suggest one by meaning or spelling."""

import pytest

from recu_jax import RunFailed, UserError, binarizers, errors
from recu_jax.config import base_config
from recu_jax.config.rules import CHOICES
from recu_jax.errors import first_few, one_line, require, unknown
from recu_jax.models import MODELS


@pytest.mark.parametrize(
    "value,names,meant",
    [
        ("resnet20", MODELS, "cifar_resnet20"),
        ("vgg", MODELS, "cifar_vgg_small"),
        ("vgg-small", MODELS, "cifar_vgg_small"),
        ("ResNet-50", MODELS, "resnet50"),
        ("irnet", binarizers.WEIGHTS, "libra"),
        ("IR-Net", binarizers.WEIGHTS, "libra"),
        ("IR-Net", binarizers.ACTIVATIONS, "ede"),
        ("xnornet", binarizers.WEIGHTS, "xnor_net"),
        ("Bi-Real Net", binarizers.ACTIVATIONS, "approx_sign"),
        ("ReActNet", binarizers.ACTIVATIONS, "rsign"),
        ("dorefa-net", binarizers.WEIGHTS, "dorefa"),
        ("lr", base_config(), "learning_rate"),
        ("wd", base_config(), "weight_decay"),
        ("bs", base_config(), "batch_size"),
        ("scale", base_config(), "alpha"),
        ("epoch", base_config(), "epochs"),
        ("learning_rte", base_config(), "learning_rate"),
        ("momentun", base_config(), "momentum"),
        ("fp16", CHOICES["dtype"], "bfloat16"),
    ],
)
def test_what_is_meant(value, names, meant):
    assert f"did you mean {meant!r}? " in str(errors.unknown("field", value, names))


def test_nothing_is_meant_by_what_is_like_nothing():
    assert "did you mean" not in str(errors.unknown("model", "zzzzz", MODELS))
    assert "did you mean" not in str(errors.unknown("model", "", MODELS))


def test_every_meaning_is_a_name_that_exists():
    there = {*base_config(), *MODELS, *binarizers.WEIGHTS, *binarizers.ACTIVATIONS}
    there |= {str(choice) for choices in CHOICES.values() for choice in choices}
    assert {name for names in errors.MEANINGS.values() for name in names} <= there


def test_they_are_python_errors_of_their_kinds():
    assert issubclass(UserError, ValueError) and issubclass(RunFailed, RuntimeError)


def test_one_line():
    assert one_line("a\nb \t c") == "a b c"
    assert one_line("a" * 10, 4) == "aaaa"
    assert one_line(KeyError()) == "KeyError"


def test_unknown_points_at_the_nearest_name():
    error = unknown("model", "resnt18", ["resnet18", "vgg"])
    assert isinstance(error, UserError)
    assert str(error) == (
        "model is 'resnt18', which does not exist; did you mean 'resnet18'? it must be one of: resnet18, vgg"
    )
    assert "did you mean" not in str(unknown("model", 7, ["resnet18"]))


def test_first_few():
    assert first_few(["a", "b"], 2) == "a; b"
    assert first_few([1, 2, 3, 4], 2, ", ") == "1, 2, and 2 more"
    assert first_few([1, 2], 1, name=lambda n: f"n{n}") == "n1; and 1 more"


def test_require_says_what_to_type():
    require("json", "numpy", extra="report")
    with pytest.raises(UserError, match=r"no_such_package is not installed; type: pip install 'recu_jax\[report\]'$"):
        require("json", "no_such_package", extra="report")
    with pytest.raises(UserError, match=r"no_such_package is not installed; type: pip install no_such_package$"):
        require("json", "no_such_package")
