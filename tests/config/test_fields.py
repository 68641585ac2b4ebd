"""Tests the fields of a run, and which of them a resumed run may change."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recu_jax import UserError
from recu_jax.binarizers import weights
from recu_jax.config.fields import (
    FIELDS,
    FREE_ON_RESUME,
    RECU_FIELDS,
    base_config,
    check_config,
    check_resumable,
    check_same_model,
    check_trained_here,
    field_lines,
    plain,
)


def test_the_base_config_has_every_field_and_no_other():
    fields = [field for section in FIELDS.values() for field in section]
    assert len({field.name for field in fields}) == len(fields) == len(field_lines())
    config = base_config()
    assert set(config) == {field.name for field in fields}
    check_config(config)
    with pytest.raises(AttributeError):
        config.epoch = 3


def test_the_fields_of_recu_have_its_defaults():
    for field, attribute in RECU_FIELDS.items():
        assert base_config()[field] == getattr(weights.ReCU(), attribute)


def test_a_field_too_many_or_too_few():
    config = base_config().unlock()
    config.epoch = 3
    with pytest.raises(UserError, match="config field is 'epoch', which does not exist; did you mean 'epochs'"):
        check_config(config)
    del config["epoch"], config["epochs"]
    with pytest.raises(UserError, match=r"config.epochs is missing; start from recu_jax.config.base_config\(\)"):
        check_config(config)


ANY = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    tuple: st.lists(st.floats(0, 1)).map(tuple),
}


@settings(max_examples=8)
@given(
    values=st.fixed_dictionaries(
        {}, optional={f.name: ANY[f.kind or type(f.default)] for section in FIELDS.values() for f in section}
    )
)
def test_a_config_comes_back_from_json(values):
    """A checkpoint keeps the config as JSON, and a resumed run compares its own with it."""
    config = base_config()
    config.update(values)
    saved = json.loads(json.dumps(plain(config)))
    assert saved == plain(config)
    check_resumable(saved, config, "run")
    check_same_model(saved, config, "run")
    again = base_config()
    again.update({name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if v is not None})
    assert again == config


def with_other(name):
    config = base_config()
    with config.ignore_type():
        config[name] = "other"
    return config


def test_a_resumed_run_may_change_what_changes_no_result():
    config = base_config()
    saved = plain(config)
    assert saved["crop_area"] == [0.08, 1.0]  # as JSON has it
    for name in FREE_ON_RESUME - {"resume_on_other_devices"}:
        changed = with_other(name)
        check_resumable(saved, changed, "run")
    for name in set(config) - FREE_ON_RESUME:
        changed = with_other(name)
        with pytest.raises(UserError, match=f"{name} was .* and is 'other'; give these fields their old values"):
            check_resumable(saved, changed, "run")


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_newer_fields():
    config = base_config()
    saved = plain(config)
    del saved["held_out"]
    check_resumable(saved, config, "run")
    config.held_out = 100
    with pytest.raises(UserError, match="held_out was 0 and is 100"):
        check_resumable(saved, config, "run")


def test_another_number_of_devices_only_where_it_is_asked_for_or_changes_nothing():
    config = base_config()
    saved = plain(config) | {"num_devices": 4}
    config.num_devices = 2
    with pytest.raises(UserError, match=r"num_devices was 4 and is 2.*resume_on_other_devices=True"):
        check_resumable(saved, config, "run")
    for field in ("resume_on_other_devices", "global_batch_norm"):
        config[field] = saved[field] = True
        check_resumable(saved, config, "run")
        config[field] = saved[field] = False


def test_checkpoints_of_another_model_or_from_elsewhere():
    config = base_config()
    check_same_model(plain(config), config, "run")
    check_same_model({"model": "cifar_resnet20"}, config, "run")  # imported weights have no data set
    with pytest.raises(UserError, match="run holds a run with alpha='mean', the config says 'learned'"):
        check_same_model(plain(config) | {"alpha": "mean"}, config, "run")
    check_trained_here({"config": {}}, "run")
    with pytest.raises(UserError, match=r"imported from a.pth, not a run; train in another --workdir with --config"):
        check_trained_here({"imported": {"file": "a.pth"}}, "run")
