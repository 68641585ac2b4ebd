"""Files: what the safetensors package says of them, what damaged ones say, and what reading them needs."""

import copy
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from random_networks import file_of, sizes, variables_of

from recu_jax import UserError, deploy
from recu_jax.deploy import container, graph, model, stablehlo

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def network():
    _, variables = variables_of("digits_resnet8", SHAPE)
    return file_of("digits_resnet8", variables, SHAPE)


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "digits.recu"
    container.write(path, *network)
    return path


IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


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
    # 64 and 128 channels: words without waste.
    weights = 9 * (64 * 64 * 4 + 64 * 128 + 128 * 128)
    assert 8 * sum(a.nbytes for a in kernels.values()) == weights


@pytest.mark.parametrize(
    "name,shape,least", [("cifar_resnet18", (32, 32, 3), 28), ("imagenet_resnet18", (224, 224, 3), 10)]
)
def test_how_small_files_are(name, shape, least, tmp_path):
    size, float32 = sizes(name, shape, 1000 if name.startswith("imagenet") else 10, tmp_path / "file")
    assert float32 >= least * size


@pytest.mark.as_users_compile  # as the process that it starts does
def test_it_needs_jax_and_numpy_alone(path):
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {{"flax", "orbax", "optax", "tensorflow_datasets", "ml_collections", "safetensors",
                                  "sklearn", "cv2", "PIL", "grain"}}:
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
import numpy as np
import recu_jax
model = recu_jax.deploy.load({str(path)!r})
images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
np.save(sys.argv[1], np.asarray(model.predict(images)))
"""
    out = path.parent / "logits.npy"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(out), deploy.load(path).predict(IMAGES), rtol=1e-6)


def test_a_stablehlo_artifact_gives_the_same(path):
    loaded = deploy.load(path)
    data = stablehlo.serialize(loaded)
    # As a user calls it, with jax alone; for another batch too.
    call = jax.export.deserialize(bytearray(data)).call
    for images in (IMAGES, IMAGES[:1]):
        np.testing.assert_allclose(call(images), loaded.predict(images), rtol=1e-5, atol=1e-5)
    assert len(data) < 2 * path.stat().st_size
    with pytest.raises(UserError, match=r"no jax.export artifact"):
        stablehlo.predictor(data[:1000])


def test_images_that_do_not_fit_are_refused(path):
    loaded = deploy.load(path)
    for images in (IMAGES[:, :7], IMAGES[0], IMAGES.astype(np.float32)):
        with pytest.raises(UserError, match="digits_resnet8 takes uint8 of shape \\(batch, 8, 8, 1\\)"):
            loaded.predict(images)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        deploy.load(tmp_path / "no.recu")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        container.write_bytes(tmp_path / "no" / "x", b"")


def _with_header(data, change):
    """The file with its header changed, as a dict in the format's own form, and its length put right."""
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
    assert "\n" not in str(error.value) and "is damaged or no file of recu_jax.export" in str(error.value)


def test_deep_and_strange_json():
    for text in (b"[" * 10**5, b'{"a":' * 10**5, b'{"a": ' + b"9" * 10**5 + b"}", b'{"a": NaN}', b"[]", b"\xff"):
        with pytest.raises(UserError, match="its header is"):
            container.parse(len(text).to_bytes(8, "little") + text)


def operation(op):
    return lambda entries: next(entry for entry in entries if entry["op"] == op)


def _set(op, field, value):
    return lambda entries: operation(op)(entries).__setitem__(field, value)


WRONG = {
    "does not know it": _set("mean", "op", "system"),
    "they must be numbers of earlier operations": _set("mean", "inputs", [10**6]),
    "has 2 inputs instead of 1": _set("mean", "inputs", [0, 0]),
    "it takes bits, and its input is real": _set("binary_conv", "inputs", [1]),
    "its strides is \\[0, 1\\]": _set("binary_conv", "strides", [0, 1]),
    "it must be 2 integers in \\[1, 64\\]": _set("binary_conv", "strides", [2**62, 1]),
    "its padding is \\[9, 9, 9, 9\\]": _set("binary_conv", "padding", [9, 9, 9, 9]),
    "numbers an image; 1 to 67108864 are allowed": _set("image", "shape", [16384, 16384, 1]),
    "its std is 0": _set("image", "std", [0.0]),
    "its kernel is float32 \\(3, 3, 1, 64\\); it must be uint32": lambda entries: operation("binary_conv")(entries)[
        "arrays"
    ].__setitem__("kernel", "conv1.kernel"),
    "it takes two inputs of one shape": _set("add", "inputs", [0, 1]),
    "'surprise', which it does not take": _set("mean", "surprise", 1),
    "the first operation, and no other": lambda entries: entries.append({"op": "image"}),
    "its last operation gives no logits": lambda entries: entries.append({"op": "sign", "inputs": [len(entries) - 1]}),
}


@pytest.mark.parametrize("message", WRONG)
def test_operations_that_do_not_fit(message, network):
    header, arrays = copy.deepcopy(network)
    WRONG[message](header["operations"])
    with pytest.raises(UserError, match=message) as error:
        model.parse(header, arrays)
    assert "\n" not in str(error.value)


def test_numbers_that_do_not_fit(network):
    header, arrays = copy.deepcopy(network)
    for change, message in (
        ({"format": 2}, "its format is 2"),
        ({"class_names": ["a"]}, "1 class names for 10 classes"),
        ({"class_names": [1] * 10}, "no list of text"),
        ({"preprocessing": {"crop": "resize", "eval_resize": -1}}, "not a crop and a size"),
        ({"operations": {}}, "no list of operations"),
    ):
        with pytest.raises(UserError, match=message):
            model.parse(header | change, arrays)
    with pytest.raises(UserError, match="bits set after the last channel"):
        first = next(e for e in header["operations"] if e["op"] == "binary_conv")
        name = first["arrays"]["kernel"]
        image = {"op": "image", "shape": [8, 8, 40], "mean": [0] * 40, "std": [1] * 40}
        entries = [image, {"op": "sign", "inputs": [0]}, {**first, "inputs": [1]}]
        model.parse(header | {"operations": entries}, arrays | {name: arrays[name] | 1 << 31})


def test_what_would_take_forever_is_refused():
    image = {"op": "image", "shape": [4096, 4096, 1], "mean": [0], "std": [1]}
    pool = {"op": "max_pool", "window": [64, 64], "strides": [1, 1], "padding": [32, 31, 32, 31]}
    pools = [{**pool, "inputs": [i]} for i in range(5)]
    with pytest.raises(UserError, match="takes 343614160896 products an image"):
        graph.check([image, *pools], {})
    with pytest.raises(UserError, match="it has 2049 operations"):
        graph.check([image] * 2049, {})


def test_infinite_numbers_are_refused(network, tmp_path):
    header, arrays = copy.deepcopy(network)
    arrays["linear.bias"] = np.full_like(arrays["linear.bias"], np.inf)
    container.write(tmp_path / "x", header, arrays)
    with pytest.raises(UserError, match=r"'linear.bias' holds numbers that are not finite"):
        deploy.load(tmp_path / "x")
