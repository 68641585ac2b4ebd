"""Tests files of other people's weights: what else they hold, the entry with the weights, prefixes of names."""

import argparse
import os
import pathlib
import sys

import jax
import numpy as np
import pytest

from recu_jax import UserError, create_model
from recu_jax.commands import import_torch
from recu_jax.pytorch import load_variables
from recu_jax.pytorch.files import read
from recu_jax.pytorch.names import common_prefix, from_torch, to_torch
from recu_jax.training.checkpoint import read_best

MODEL = "digits_resnet8"


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(create_model(MODEL).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), "f"))
    r = np.random.default_rng(0)
    return jax.tree.map(lambda a: r.normal(size=a.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def arrays(variables):
    return to_torch(MODEL, variables)


@pytest.fixture
def tensors(arrays):
    torch = pytest.importorskip("torch", reason="pip install torch")
    return {k: torch.tensor(v) for k, v in arrays.items()}


def save(content, folder, **options):
    import torch

    torch.save(content, folder / "c.pt", **options)
    return folder / "c.pt"


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


BESIDE = {
    "float64": np.float64(61.5), "float32": np.float32(1), "int64": np.int64(3), "bool": np.bool_(True),
    "text": np.str_("x"), "array": np.arange(3), "objects": np.array([None, "x"], object),
    "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace(x=np.float64(1)), path=pathlib.Path("a/b")),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_scripts_save_beside_the_weights(variables, tensors, tmp_path, zipped):
    path = save({"state_dict": tensors, **BESIDE}, tmp_path, _use_new_zipfile_serialization=zipped)
    assert_equal(load_variables(path, MODEL), variables)


def test_numbers_of_numpy_are_read(tensors, tmp_path):
    path = save({"state_dict": tensors, "epoch": np.int64(7), "best_acc1": np.float64(61.5)}, tmp_path)
    assert (read(path).epoch, read(path).best_top1) == (7, 61.5)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_is_run_for_it(tensors, tmp_path):
    """A file may call harmless stand-ins for known types with any arguments. All other functions are refused."""
    trace = tmp_path / "ran"
    scalar, reconstruct = np.float64(1).__reduce__()[0], np.arange(3).__reduce__()[0]
    calls = [
        Call(scalar, np.dtype("V2000000000")), Call(scalar, np.dtype("O"), b"12345678"), Call(np.dtype, "f8,V9999999"),
        Call(reconstruct, np.ndarray, (10**12,), b"b"), Call(np.ndarray, (10**12,)), Call(argparse.Namespace, 1),
        Call(scalar), Call(scalar, np.dtype("f8"), b"short"),
    ]  # fmt: skip
    path = save({"state_dict": tensors, "calls": calls}, tmp_path)
    assert len(read(path).state_dict) == len(tensors)
    for bad in (Call(os.system, f"touch {trace}"), argparse.Namespace(x=Call(os.system, f"touch {trace}"))):
        with pytest.raises(UserError, match=r"carries code, posix.system, and is not loaded"):
            read(save({"state_dict": tensors, "x": bad}, tmp_path))
    assert not trace.exists()


@pytest.mark.parametrize("key", ["net", "model", "model_state_dict", "state_dict", "generator weights"])
def test_weights_are_found_under_any_key(variables, tensors, tmp_path, key):
    state = {"state": {0: {"momentum_buffer": tensors["conv1.weight"]}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    path = save({key: tensors, "optimizer": state, "epoch": 7, "history": {"loss": tensors["bn1.bias"]}}, tmp_path)
    assert_equal(load_variables(path, MODEL), variables)
    assert (read(path).key, read(path).epoch) == (key, 7)


def test_weights_within_an_entry_are_found(variables, tensors, tmp_path, capsys):
    doubled = {k: 2 * v for k, v in tensors.items()}
    path = save({"checkpoint": {"state_dict": tensors, "epoch": 2}, "config": {"lr": 0.1}}, tmp_path)
    assert_equal(load_variables(path, MODEL), variables)
    assert read(path).key == "checkpoint/state_dict"
    # A state_dict at the top level goes first. One within another entry is chosen by its key.
    path = save({"model": tensors, "ema": {"shadow": doubled}}, tmp_path)
    assert_equal(load_variables(path, MODEL), variables)
    assert_equal(read(path, "ema/shadow").state_dict["linear.bias"], doubled["linear.bias"])
    with pytest.raises(UserError, match=r"holds 2 state_dicts: saved/a, saved/b; choose one with"):
        read(save({"saved": {"a": tensors, "b": doubled}}, tmp_path))


def test_arrays_of_numpy_for_weights_are_named(tensors, tmp_path):
    path = save({"state_dict": {k: v.numpy() for k, v in tensors.items()}}, tmp_path)
    with pytest.raises(UserError, match=r"entry 'conv1.weight' is an array or object of NumPy .*, not a tensor"):
        read(path)


def test_several_are_named_and_one_is_chosen(variables, tensors, tmp_path, capsys):
    doubled = {k: 2 * v for k, v in tensors.items()}
    path = save({"model": tensors, "model_ema": doubled, "epoch": 3}, tmp_path)
    with pytest.raises(
        UserError, match=r"c.pt holds 2 state_dicts: model, model_ema; choose one with recu import-torch"
    ):
        load_variables(path, MODEL)
    import_torch.main([str(path), f"--model={MODEL}", f"--workdir={tmp_path / 'w'}", "--key=model_ema"])
    assert "(entry 'model_ema', epoch 3)" in capsys.readouterr().out
    found = read_best(tmp_path / "w")[2]
    assert_equal(found, jax.tree.map(lambda a: 2 * a, variables))
    with pytest.raises(UserError, match=r"the key of the state_dict is 'model_em', .* did you mean 'model_ema'"):
        read(path, "model_em")


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model.", "_orig_mod."])
def test_one_common_prefix_is_left_out_and_said(variables, tensors, tmp_path, capsys, prefix):
    path = save({"net": {prefix + k: v for k, v in tensors.items()}}, tmp_path)
    assert_equal(load_variables(path, MODEL), variables)
    import_torch.main([str(path), f"--model={MODEL}", f"--workdir={tmp_path / 'w'}"])
    assert f"(entry 'net', names without their prefix '{prefix}')" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["module.", "module.model."])
def test_averages_of_a_wrapped_network_have_a_prefix(variables, arrays, prefix):
    """`torch.optim.swa_utils.AveragedModel` adds `module.` to all names, and a counter without this prefix."""
    averaged = {"n_averaged": np.int64(3), **{prefix + k: v for k, v in arrays.items()}}
    assert common_prefix(averaged) == prefix
    assert_equal(from_torch(MODEL, averaged), variables)


def test_names_of_a_network_are_no_prefix(arrays):
    assert common_prefix(arrays) == "" and common_prefix({"fc.weight": 0, "fc.bias": 0}) == ""
    assert common_prefix({"a.fc.weight": 0, "b.fc.weight": 0}) == "" and common_prefix({}) == ""
    assert common_prefix({"a.fc.weight": 0, "a.fc.bias": 0}) == "a."


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_are_read_without_pytorch(variables, arrays, tmp_path, monkeypatch, dtype):
    import ml_dtypes  # noqa: F401
    import safetensors.numpy

    monkeypatch.setitem(sys.modules, "torch", None)
    narrow = {k: v.astype(dtype) for k, v in arrays.items()}
    for name in ("model.safetensors", "model.bin"):
        safetensors.numpy.save_file({f"backbone.{k}": v for k, v in narrow.items()}, tmp_path / name)
        found = load_variables(tmp_path / name, MODEL)
        assert_equal(found, jax.tree.map(lambda a: a.astype(dtype).astype(np.float32), variables))


def test_damaged_safetensors_are_one_line(tmp_path):
    import safetensors.numpy

    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.zeros((4, 4), np.float32)}, path)
    whole = path.read_bytes()
    for bad in (b"", b"text", whole[:-4], b"\xff" * 100, whole[:20]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"x.safetensors is no whole file of safetensors"):
            read(path)
    safetensors.numpy.save_file({}, path)
    with pytest.raises(UserError, match="holds no tensors"):
        read(path)
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none.safetensors")
