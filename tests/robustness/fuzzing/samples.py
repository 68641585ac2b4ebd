"""Makes the small real files that cases damage: photographs, records, arrays, annotations, metrics and checkpoints."""

import io
import json
import pathlib
import zipfile

import numpy as np

CLASSES = 10


def photographs() -> list[bytes]:
    """Returns parts of scikit-learn's two photographs as JPEG, PNG, WebP and BMP of several kinds."""
    import cv2
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    small, narrow = china[:40, :60, ::-1], flower[100:230, 200:217, ::-1]
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    restarts = [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    options = [(".jpg", []), (".jpg", progressive), (".jpg", restarts), (".png", []), (".webp", []), (".bmp", [])]
    images = [small, narrow, np.ascontiguousarray(small[..., 0])]
    found = [cv2.imencode(kind, image, flags)[1].tobytes() for image in images for kind, flags in options]
    found.append(cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())  # lossless
    found.append(cv2.imencode(".png", np.dstack([small, small[..., 0]]))[1].tobytes())
    return found


def examples() -> list[bytes]:
    """Returns serialized tf.train.Example messages with an image, a label, a file name and floats."""

    def field(number, content):
        length, n = b"", len(content)
        while n > 127:
            length, n = length + bytes([n & 127 | 128]), n >> 7
        return bytes([number << 3 | 2]) + length + bytes([n]) + content

    def feature(name, kind, values):
        return field(1, field(1, name) + field(2, field(kind, values)))

    pictures = photographs()
    found = []
    for label in (0, 5, 9):
        features = feature(b"image", 1, field(1, pictures[label])) + feature(b"file_name", 1, field(1, b"n01.JPEG"))
        features += feature(b"label", 3, field(1, bytes([label]))) + feature(b"box", 2, field(1, b"\0\0\x80?"))
        found.append(field(1, features))
    return found


def array_records(folder: pathlib.Path) -> list[bytes]:
    """Returns array_record files with the examples, compressed or not."""
    from array_record.python.array_record_module import ArrayRecordWriter

    found = []
    for options in ("group_size:1,uncompressed", "group_size:1", "group_size:2,brotli:1", "group_size:3,zstd:3"):
        path = folder / "sample.array_record"
        writer = ArrayRecordWriter(str(path), options)
        for example in examples():
            writer.write(example)
        writer.close()
        found.append(path.read_bytes())
        path.unlink()
    return found


def arrays() -> list[bytes]:
    """Returns files of numpy.savez, stored and compressed."""
    r = np.random.default_rng(0)
    found = []
    for save in (np.savez, np.savez_compressed):
        for shape in ((8, 8, 3), (6, 5)):
            file = io.BytesIO()
            save(
                file,
                train_images=r.integers(0, 256, (12, *shape), np.uint8),
                train_labels=np.arange(12) % 4,
                test_images=r.integers(0, 256, (5, *shape), np.uint8),
                test_labels=np.arange(5) % 4,
            )
            found.append(file.getvalue())
    return found


def bomb() -> bytes:
    """Returns a 100 KB file of numpy.savez that unpacks to 100 MB. Each of its arrays states 10^12 elements."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 1, 1, 1)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            zipped.writestr(f"{name}.npy", header.getvalue() + bytes(25 * 10**6))
    return file.getvalue()


def annotations() -> list[bytes]:
    """Returns contents of Tiny-ImageNet's val_annotations.txt, for images that the target `annotations` writes."""
    lines = [f"val_{i}.JPEG\tn0{i % 3}\t0\t0\t62\t62\n" for i in range(8)]
    return ["".join(lines).encode(), "".join(lines[:3]).encode()]


def metrics() -> list[bytes]:
    """Returns the content of a run's metrics.jsonl."""
    rows = [{"epoch": e, "step": 22 * e, "train_loss": 1.5 / e, "test_top1": 90.0 + e} for e in range(1, 9)]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def checkpoints() -> list[bytes]:
    """Returns PyTorch files in the new and old format, as bare state_dicts and as checkpoints of ReCU's authors."""
    import jax
    import jax.numpy as jnp
    import torch

    from recu_jax.models import create_model
    from recu_jax.pytorch.names import to_torch

    # All weights are equal, so that the files have few different bytes. Only shapes and names matter.
    shapes = jax.eval_shape(
        create_model("digits_resnet8").init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    )
    variables = jax.tree.map(lambda a: np.full(a.shape, 0.5, np.float32), shapes)
    state_dict = {k: torch.from_numpy(v) for k, v in to_torch("digits_resnet8", variables).items()}
    whole = {"epoch": 3, "model": "digits_resnet8", "state_dict": state_dict, "best_prec1": torch.tensor(90.5)}
    tiny = {"conv1.weight": torch.ones(16, 3, 3, 3), "bn1.weight": torch.ones(16, dtype=torch.float16)}
    found = []
    for content in (tiny, {"state_dict": tiny, "epoch": 1}, whole):
        for new in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=new)
            found.append(file.getvalue())
    # Small files come three times as often: most of their bytes are headers, so damage hits headers more often.
    return found + found[:4] * 2
