"""Runs the files of `files.py` in one engine, in a process of its own on one core. `run.py` starts these processes."""

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3]))

import numpy as np

from experiments.benchmarks.inference import seconds_of
from experiments.benchmarks.turns import answers, others_busy

SECONDS = 0.1  # length of a turn
# For each engine, the packages whose versions the record has.
PACKAGES = {
    "recu": ("jax", "jaxlib"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino", "nncf"),
    "openvino_no_amx": ("openvino", "nncf"),
    "larq": ("larq-compute-engine", "larq", "tensorflow", "numpy"),
}


def normalize(pixels, mean, std):
    """Returns pixels as float32, (batch, channels, height, width), for a float twin."""
    return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2), np.float32)


class Images:
    """The images of a network, as its files take them."""

    def __init__(self, folder, name):
        self._of = np.load(folder / f"{name}.npz")
        self.pixels = self._of["pixels"]
        self.labels = self._of["labels"]

    @property
    def calibration(self):
        return self._of["calibration"]

    @property
    def trained(self):
        """Which of the networks "1-bit" and "float" are trained."""
        return dict(zip(("1-bit", "float"), self._of["trained"].tolist(), strict=True))

    def normalized(self, pixels):
        return normalize(pixels, self._of["mean"], self._of["std"])


# Each of the following functions yields (case, preparation of one image, function that loads the network) of a network.
# The function returns another one, from the prepared image to logits.


def recu(folder, name, images):
    import jax

    from recu_jax import deploy

    def load():
        network = deploy.load(folder / f"{name}.recu")
        return lambda pixels: np.asarray(network.predict(pixels))

    yield "1-bit", jax.device_put, load


def onnxruntime(folder, name, images):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def load(file):
        session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"images": x})[0]

    yield "float32", images.normalized, lambda: load(f"{name}_float32.onnx")
    yield "int8, u8s8", images.normalized, lambda: load(f"{name}_u8s8.onnx")
    yield "int8, s8s8", images.normalized, lambda: load(f"{name}_s8s8.onnx")
    yield "1-bit ONNX", np.asarray, lambda: load(f"{name}.onnx")


def openvino(folder, name, images):
    import openvino

    core = openvino.Core()

    def read(file):
        model = core.read_model(folder / file)
        if model.is_dynamic():
            model.reshape([1, *images.pixels.shape[1:]])
        return model

    def load(model, precision="f32"):
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(model, "CPU", hints | {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False})
        request = compiled.create_infer_request()

        def run(x):
            request.input_tensors[0].data[:] = x
            request.infer()
            return request.output_tensors[0].data

        return run

    def quantized():
        import nncf

        seen = nncf.Dataset([image[None] for image in images.calibration])
        return load(nncf.quantize(read(f"{name}_float32.onnx"), seen, subset_size=len(images.calibration)))

    def binary():
        from experiments.benchmarks.engines.openvino_bits import with_binary_convolutions

        model = read(f"{name}.onnx")
        with_binary_convolutions(model)
        return load(model)

    yield "float32", images.normalized, lambda: load(read(f"{name}_float32.onnx"))
    # OpenVINO's default on processors that have instructions for it.
    yield "bfloat16", images.normalized, lambda: load(read(f"{name}_float32.onnx"), "bf16")
    yield "int8, nncf", images.normalized, quantized
    yield "int8, s8s8", images.normalized, lambda: load(read(f"{name}_s8s8.onnx"))
    yield "int8, u8s8", images.normalized, lambda: load(read(f"{name}_u8s8.onnx"))
    yield "1-bit ONNX", np.asarray, lambda: load(read(f"{name}.onnx"))
    yield "BinaryConvolution", np.asarray, binary


def larq(folder, name, images):
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    from experiments.benchmarks.engines import larq_network, recu_file

    file = folder / f"{name}.recu"
    image = recu_file.read(file)[0]

    def normalized(pixels):
        return ((pixels / np.float32(255) - np.float32(image["mean"])) / np.float32(image["std"])).astype(np.float32)

    yield "1-bit", normalized, lambda: Interpreter(larq_network.convert(file), num_threads=1).predict


ENGINES = {"recu": recu, "onnxruntime": onnxruntime, "openvino": openvino, "openvino_no_amx": openvino, "larq": larq}


def prepare(side, folder):
    """Loads all networks.

    Returns:
      The images by network; by (network, case) the preparation of an image and the function to time; by "network, case"
      the error of those that failed.
    """
    images, cases, failed = {}, {}, {}
    for file in sorted(folder.glob("*.npz")):
        name = file.stem
        images[name] = Images(folder, name)
        for case, prepared, load in ENGINES[side](folder, name, images[name]):
            if side == "openvino_no_amx" and not case.startswith("int8"):
                continue
            try:
                run = load()
                run(prepared(images[name].pixels[:1]))
            except Exception as error:  # of any engine
                failed[f"{name}, {case}"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                continue
            cases[name, case] = prepared, run
    return images, cases, failed


def serve(side, folder):
    """Answers each line of stdin, a JSON list [network, case, count], with a JSON line.

    A count of 0 gives the seconds of a turn, another count the classes of so many images.
    """
    warnings.simplefilter("ignore")
    answer = answers()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    if side == "openvino_no_amx":
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        versions = {package: importlib.metadata.version(package) for package in PACKAGES[side]}
        versions = {"python": platform.python_version(), **versions}
        if side == "recu":
            from recu_jax.ops import native

            versions["kernels"] = native.cpu_backend()
        images, cases, failed = prepare(side, folder)
    except ImportError as error:  # PackageNotFoundError, too
        answer(missing=f"{type(error).__name__}: {error}")
        return
    answer(cases=list(cases), failed=failed, versions=versions)
    for line in sys.stdin:
        network, case, count = json.loads(line)
        prepared, run = cases[network, case]
        if count:
            pixels = images[network].pixels[:count]
            answer(classes=[int(np.argmax(run(prepared(pixels[i : i + 1])))) for i in range(len(pixels))])
            continue
        x = prepared(images[network].pixels[:1])
        seconds, _, share = others_busy(lambda run=run, x=x: seconds_of(lambda: run(x), SECONDS))
        answer(seconds=seconds, share_of_others=share)


if __name__ == "__main__":
    serve(sys.argv[1].removeprefix("--worker="), pathlib.Path(sys.argv[2]))
