"""Tests loading config files from Python."""

import pytest

from recu_jax import UserError
from recu_jax.config import load
from recu_jax.config.fields import check_config
from recu_jax.config.files import find, shipped


def test_every_shipped_config_is_sound():
    assert {"cifar10", "digits", "imagenet"} <= set(shipped())
    stages = {
        "cifar10_two_stage": (":teacher", ":stage1", ":stage2"),
        "imagenet_two_stage": (":stage1", ":stage2"),
    }
    for name in shipped():
        for stage in stages.get(name, ("",)):
            check_config(load(name + stage))


def test_a_name_or_a_path_with_fields_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("digits", epochs=3).epochs == 3
    assert find("configs/digits.py") == find("digits.py") == find("digits") == str(shipped()["digits"])
    assert find("digits:part") == f"{shipped()['digits']}:part"
    own = tmp_path / "own" / "digits.py"
    own.parent.mkdir()
    own.write_text(shipped()["digits"].read_text())
    assert find(str(own)) == str(own) and load(str(own)).model == "digits_resnet8"
    assert find("elsewhere/digits.py") == "elsewhere/digits.py"


@pytest.mark.parametrize(
    "path,fields,message",
    [
        ("digit", {}, "config is 'digit', which does not exist; did you mean 'digits'"),
        ("digits", {"epoch": 3}, "config field is 'epoch', which does not exist; did you mean 'epochs'"),
        ("digits", {"epochs": "three"}, "config.epochs is 'three'"),
    ],
)
def test_mistakes(path, fields, message):
    with pytest.raises(UserError, match=message):
        load(path, **fields)
