"""Tests exported files: the safetensors package reads them, and damaged files give errors."""

import copy
import json

import numpy as np
import pytest
import safetensors.numpy

from recu_jax import UserError, deploy
from recu_jax.deploy import container
from tests.support.random_networks import sizes


def test_it_is_a_safetensors_file(path, network):
    header, arrays = network
    found = safetensors.numpy.load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    read_header, read_arrays = container.read(path)
    assert read_header == json.loads(json.dumps(header))
    for name, array in arrays.items():
        np.testing.assert_array_equal(read_arrays[name], array)


def test_a_bit_a_weight(network):
    _, arrays = network
    kernels = {name: a for name, a in arrays.items() if name.endswith("kernel") and a.dtype == np.uint32}
    assert len(kernels) == 6
    # 64 and 128 channels fill whole words.
    weights = 9 * (64 * 64 * 4 + 64 * 128 + 128 * 128)
    assert 8 * sum(a.nbytes for a in kernels.values()) == weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,shape,least",
    [("cifar_resnet18", (32, 32, 3), 28), pytest.param("imagenet_resnet18", (224, 224, 3), 10, marks=pytest.mark.slow)],
)
def test_how_small_files_are(name, shape, least, tmp_path):
    size, float32 = sizes(name, shape, 1000 if name.startswith("imagenet") else 10, tmp_path / "file")
    assert float32 >= least * size


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        deploy.load(tmp_path / "no.recu")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        container.write_bytes(tmp_path / "no" / "x", b"")


def _with_header(data, change):
    """Returns the file after `change` has edited its header, a dict. The length of the header is corrected."""
    length = int.from_bytes(data[:8], "little")
    index = json.loads(data[8 : 8 + length])
    change(index)
    text = json.dumps(index).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _in_entry(name, field, value):
    return lambda data: _with_header(data, lambda index: index[name].__setitem__(field, value))


KERNEL = "layer1_0/conv1.kernel"
DAMAGED = {
    "it has 5 bytes": lambda data: data[:5],
    "its header is said to have 18446744073709551615 bytes": lambda data: b"\xff" * 8 + data[8:],
    "its header is not JSON": lambda data: data[:8] + b"]" + data[9:],
    "leave gaps": lambda data: data + b"1234",
    "ends at byte": lambda data: data[:-4],
    "no entry 'recu'": lambda data: _with_header(data, lambda index: index.pop("__metadata__")),
    "has the dtype F16": _in_entry(KERNEL, "dtype", "F16"),
    "has the shape \\[-1, 3, 3, 2\\]": _in_entry(KERNEL, "shape", [-1, 3, 3, 2]),
    "do not hold the shape": _in_entry(KERNEL, "shape", [2**40, 3, 3, 2]),
    "has the offsets \\[0, True\\]": _in_entry(KERNEL, "data_offsets", [0, True]),
    "which is none of the file's arrays": lambda data: _with_header(
        data, lambda index: index.__setitem__("x", index.pop(KERNEL))
    ),
    "overlap or leave gaps": lambda data: _with_header(
        data, lambda index: index.__setitem__("conv1.kernel", {**index["conv1.kernel"], "data_offsets": [0, 2304]})
    ),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_file_gives_one_line(message, path, tmp_path):
    damaged = tmp_path / "damaged.recu"
    damaged.write_bytes(DAMAGED[message](path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        deploy.load(damaged)
    assert "\n" not in str(error.value) and "is damaged or no file of `recu export`" in str(error.value)


def test_deep_and_strange_json():
    for text in (b"[" * 10**5, b'{"a":' * 10**5, b'{"a": ' + b"9" * 10**5 + b"}", b'{"a": NaN}', b"[]", b"\xff"):
        with pytest.raises(UserError, match="its header is"):
            container.parse(len(text).to_bytes(8, "little") + text)


def test_infinite_numbers_are_refused(network, tmp_path):
    header, arrays = copy.deepcopy(network)
    arrays["linear.bias"] = np.full_like(arrays["linear.bias"], np.inf)
    container.write(tmp_path / "x", header, arrays)
    with pytest.raises(UserError, match=r"'linear.bias' holds numbers that are not finite"):
        deploy.load(tmp_path / "x")
