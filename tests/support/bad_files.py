"""Makes the faulty files of `bad_input`. Most functions write to the folder that they get, and return a path in it."""

import io
import pickle
import zipfile

import numpy as np

from tests.support import GOLDEN

OFFICIAL = GOLDEN / "official_checkpoint_resnet20.pth.tar"


class Code:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.trace}",)


def text(folder, name="notes.txt", content="no data at all\n" * 30):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def config(folder, body, head="from recu_jax.config import base_config"):
    """Writes a config file whose get_config has these lines."""
    lines = "".join(f"    {line}\n" for line in body)
    return text(folder, "config.py", f"{head}\n\n\ndef get_config():\n{lines}")


def arrays(**changes):
    """Returns valid arrays for the data set `npz`, with `changes`. A change to None leaves an array out."""
    r = np.random.default_rng(0)
    sound = {
        "train_images": r.integers(0, 256, (20, 8, 8, 3), np.uint8), "train_labels": np.arange(20) % 4,
        "test_images": r.integers(0, 256, (6, 8, 8, 3), np.uint8), "test_labels": np.arange(6) % 4,
    }  # fmt: skip
    return {k: v for k, v in (sound | changes).items() if v is not None}


def npz(folder, **changes):
    np.savez(folder / "data.npz", **arrays(**changes))
    return folder / "data.npz"


def square_npz(folder, side):
    images = {f"{s}_images": np.zeros((n, side, side, 3), np.uint8) for s, n in (("train", 20), ("test", 6))}
    return npz(folder, **images)


def cut(path, keep=0.5):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    return path


def npz_with_header(folder, count=10**12, data=64, packing=zipfile.ZIP_STORED):
    """Writes a .npz file of arrays whose headers state `count` elements. Each array has `data` bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (count, 1, 1, 1)})
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w", packing) as file:
        for name in arrays():
            file.writestr(f"{name}.npy", header.getvalue() + bytes(data))
    return path


def npz_with_code(folder, trace):
    objects = np.array([Code(trace)] * 20, dtype=object)
    return npz(folder, train_labels=objects)


def pickled(folder, trace, name="data.npz"):
    return text(folder, name, pickle.dumps(Code(trace), protocol=2))


def photograph(side=24, kind=".jpg"):
    import cv2

    return cv2.imencode(kind, np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))[1].tobytes()


def of_stated_size(data, side):
    """Changes the header of the JPEG `data`, so that it states `side` pixels of height and width."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + side.to_bytes(2, "big") * 2 + data[at + 4 :]


def image_folder(folder, train=None, val=None):
    """Writes two classes, each of four training and two test photos. `train`, `val`: content of a split's files."""
    for split, n, content in (("train", 4, train), ("val", 2, val)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                (folder / split / name / f"{i}.jpg").write_bytes(photograph() if content is None else content)
    return folder


def without(path, part):
    """Removes the file or folder `part` from `path`."""
    gone = path / part
    for p in sorted(gone.rglob("*"), reverse=True):
        p.rmdir() if p.is_dir() else p.unlink()
    gone.rmdir() if gone.is_dir() else gone.unlink()
    return path


def another(path, part):
    """Writes a photograph to the file `part` in `path`."""
    (path / part).parent.mkdir(parents=True, exist_ok=True)
    (path / part).write_bytes(photograph())
    return path


def tiny_imagenet(folder, annotations):
    another(folder, "train/n01/images/0.JPEG")
    another(folder, "val/images/val_0.JPEG")
    text(folder, "val/val_annotations.txt", annotations)
    return folder


def tfds(folder, name="cifar10", damage=None):
    """Writes a few images as TFDS prepares CIFAR-10 or ImageNet. Then calls `damage` with the folder of the version."""
    import tensorflow_datasets

    from tests.support import prepared_tfds

    tensorflow_datasets.disable_progress_bar()
    if name == "cifar10":
        images = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 3), np.uint8)
        prepared_tfds.prepare(folder, name, "3.0.2", images, np.arange(25) % 10)
    else:
        examples = [(f"n{i}.JPEG", photograph(), i) for i in range(8)]
        prepared_tfds.prepare_imagenet(folder, {"train": examples, "validation": examples[:4]})
    if damage is not None:
        (version,) = (folder / name).iterdir()
        damage(version)
    return folder


def overwrite_shards(content):
    """Returns a function for `damage` of `tfds`. It overwrites part of every training shard with `content`."""

    def damage(version):
        for shard in version.glob("*-train.array_record*"):
            data = bytearray(shard.read_bytes())
            at = 200  # after the headers, and before the zeros at the end of a file
            data[at : at + len(content)] = content
            shard.write_bytes(data)

    return damage


def remove_shards(version):
    for shard in version.glob("*-train.array_record*"):
        shard.unlink()


def cut_info(version):
    cut(version / "dataset_info.json")


def ones(model="digits_resnet8", channels=1, conv="binary", classes=10):
    """Returns the variables of a model, all of them ones."""
    import jax
    import jax.numpy as jnp

    from recu_jax import layers
    from recu_jax.models import create_model

    layer = layers.BinaryConv if conv == "binary" else layers.Conv
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    shapes = jax.eval_shape(create_model(model, classes, conv=layer).init, jax.random.key(0), image)
    return jax.tree.map(lambda a: np.ones(a.shape, np.float32), shapes)


def workdir(folder, model="digits_resnet8", channels=1, conv="binary", classes=10):
    """Writes a workdir with one checkpoint of ones, as `recu import-torch` does, but without PyTorch."""
    from recu_jax.training.checkpoint import save_imported

    variables = ones(model, channels, conv, classes)
    record = {"model": model, "conv": conv, "file": "ones.pth.tar", "epoch": 1, "best_prec1": 10.0}
    save_imported(folder / "imported", variables, record)
    return folder / "imported"


def run(folder, classes=10, channels=1, **fields):
    """Writes the workdir of a run on data set `npz`, with one checkpoint of ones."""
    from recu_jax.config import load
    from recu_jax.config.fields import plain
    from recu_jax.data import DatasetInfo
    from recu_jax.training.checkpoint import Checkpoints
    from recu_jax.training.step import TrainState

    c = load("digits", **{"dataset": "npz", "data_dir": "gone.npz", "num_devices": 1, **fields})
    names, shape = tuple(map(str, range(classes))), (8, 8, channels)
    info = DatasetInfo("npz", shape, names, (0.5,) * channels, (0.25,) * channels)
    state = TrainState(np.int32(1), **ones(c.model, channels, classes=classes), opt_state={})
    (folder / "trained").mkdir()
    with Checkpoints(folder / "trained") as checkpoints:
        checkpoints.save(state, plain(c), {"epoch": 1, "test_top1": 10.0}, dataset=info.as_json())
    return folder / "trained"


def damaged(folder):
    """Writes a workdir whose one checkpoint has a record that is cut in half."""
    path = workdir(folder)
    (path / "lock").touch()  # every run leaves this file
    cut(path / "checkpoints" / "0" / "record" / "metadata")
    return path


def empty_run(folder, *parts):
    """Makes a folder that looks like a workdir but has no checkpoint. `parts` names an empty folder in checkpoints/."""
    (folder / "run_before").mkdir()
    (folder / "run_before" / "lock").touch()
    (folder / "run_before" / "checkpoints").joinpath(*parts).mkdir(parents=True)
    return folder / "run_before"


def torch_file(folder, content=None, **entries):
    """Writes a file with torch.save: `content`, or the official checkpoint with entries of its state_dict replaced."""
    import torch

    if content is None:
        content = torch.load(OFFICIAL, weights_only=True, map_location="cpu")
        content["state_dict"] |= {k: torch.as_tensor(v) for k, v in entries.items()}
    torch.save(content, folder / "weights.pth.tar")
    return folder / "weights.pth.tar"


def zeros(*shape):
    import torch

    return torch.zeros(shape)


def safetensors_file(folder):
    import safetensors.numpy

    safetensors.numpy.save_file({"a.weight": np.zeros((3, 3), np.float32)}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def copy_of(path, folder, keep=1.0):
    (folder / path.name).write_bytes(path.read_bytes())
    return cut(folder / path.name, keep)


def no_cats(folder):
    """Writes an image folder in which one class has no training images."""
    image_folder(folder)
    for path in (folder / "train" / "cat").iterdir():
        path.unlink()
    return folder


def evaluation(workdir, *changes):
    return ["--config=configs/digits.py", "--mode=eval", *changes, f"--workdir={workdir}"]


def evaluation_of_corrupt(folder):
    image_folder(folder, val=b"<html>")
    given = {
        "dataset": "image_folder", "data_dir": folder, "image_size": 16, "eval_resize": 16, "batch_size": 4,
        "eval_batch_size": 4, "num_workers": 0,
    }  # fmt: skip
    return evaluation(workdir(folder, channels=3, classes=2), *(f"--config.{k}={v}" for k, v in given.items()))


def views(folder):
    import torch

    return torch_file(folder, {"conv1.weight": torch.zeros(1).expand(10**12)})


def one_tensor_for_many(folder):
    import torch

    shared = torch.zeros(10**5, dtype=torch.float16)
    return torch_file(folder, {f"conv{i}.weight": shared for i in range(100)})
