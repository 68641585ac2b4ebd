"""Package metadata; tool settings are in pyproject.toml."""

import hashlib
import pathlib
import re

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "recu_jax" / "__init__.py").read_text()).group(1)

# TFDS reads array_record files without TensorFlow. It imports importlib_resources but does not require it.
TFDS = ["tensorflow-datasets>=4.9.9", "array_record", "importlib_resources", "opencv-python-headless>=4.12"]
# Photographs that stay on disk: ImageNet of TFDS, Tiny-ImageNet, folders of images.
PHOTOS = [*TFDS, "grain>=0.2.18", "pillow>=11.0"]
# The tests execute experiments/colab_tpu.ipynb.
NOTEBOOK = ["ipykernel", "nbclient", "nbformat"]
# The tests keep runs on moto's S3 server.
BUCKETS = ["s3fs", "moto[s3]>=5", "flask", "flask-cors"]

KERNELS = pathlib.Path("recu_jax") / "ops" / "csrc"
SOURCES = sorted(path for path in (ROOT / KERNELS).iterdir() if path.suffix in (".cc", ".h"))
# Kernels that were built in place stay when their sources change. recu_jax.ops.native notices by this digest.
DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()


class BuildKernels(build_ext):
    """Builds the compiled kernels where that is possible; the package installs and works without them."""

    def run(self):
        try:
            # XLA's headers come with jaxlib, which pyproject.toml asks for.
            import jax.ffi

            for extension in self.extensions:
                # -isystem: the compiler warns about recu_jax's code, and not about XLA's headers.
                extension.extra_compile_args += ["-isystem", jax.ffi.include_dir()]
            super().run()
        except Exception as error:  # no compiler, a compiler that fails, no jax
            print(f"recu_jax is installed without its compiled kernels ({error}); 1-bit models run in XLA, slower")


class OneWheel(bdist_wheel):
    """Tags the wheel for all versions of Python 3: XLA calls the kernels and Python only loads them."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    name="recu_jax",
    version=VERSION,
    description="1-bit neural networks in JAX and Flax: ReCU layers, models and training",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The wheel has the configs, so that --config=configs/digits.py works without a checkout (`config_flag`).
    packages=[*find_packages(include=["recu_jax", "recu_jax.*"]), "recu_jax.configs"],
    package_dir={"recu_jax": "recu_jax", "recu_jax.configs": "configs"},
    package_data={"": ["py.typed", "*.pyi", "*.html", "*.css", "*.js"], "recu_jax.deploy.c": ["*.h"]},
    python_requires=">=3.11",
    ext_modules=[
        Extension(
            "recu_jax.ops._kernels",
            sources=[str(KERNELS / path.name) for path in SOURCES if path.suffix == ".cc"],
            depends=[str(KERNELS / path.name) for path in SOURCES if path.suffix == ".h"],
            define_macros=[("RECU_SOURCES", f'"{DIGEST}"')],
            # Only the code's own calls of fma may fuse: another rounding could flip a sign.
            extra_compile_args=["-std=c++17", "-O3", "-Wall", "-Wextra", "-ffp-contract=off"],
            language="c++",
        )
    ],
    entry_points={"console_scripts": ["recu = recu_jax.__main__:main"]},
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": OneWheel},
    install_requires=[
        "absl-py",
        # 0.10.2 returns wrong numbers on the CPU and crashes (jax issues 39103, 40412).
        "jax>=0.7.2,!=0.10.2",
        "jaxlib>=0.7.2,!=0.10.2",
        "filelock",
        "lazy_loader",
        "flax>=0.11.2",
        "ml_collections",
        "numpy",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12.4",
        "rich",
        "safetensors>=0.5",
        "scikit-learn",
        "tensorboardX",
        "tqdm",
    ],
    extras_require={
        "tfds": TFDS,
        "imagenet": PHOTOS,
        # Downloading and preparing the original archives needs TensorFlow, once.
        "prepare": [*PHOTOS, "tensorflow"],
        # jax.export writes and reads its artifacts with flatbuffers.
        "stablehlo": ["flatbuffers"],
        "onnx": ["onnx", "onnxruntime"],
        "qonnx": ["qonnx"],
        # The TPU compiler, to compile programs for TPUs on other machines. On a TPU machine install jax[tpu].
        "tpu": ["libtpu"],
        # For report.html.
        "report": ["plotly>=6"],
        # For runs in buckets: s3://, gs://.
        "buckets": ["s3fs", "gcsfs"],
        # Experiment trackers that `config.tracker` may name.
        "wandb": ["wandb>=0.31"],
        "trackio": ["trackio>=0.43"],
        # Tests build the compiled kernels beside their sources, with setuptools, which Python 3.12 no longer brings.
        "test": [
            *PHOTOS,
            *NOTEBOOK,
            *BUCKETS,
            "flatbuffers",
            "hypothesis",
            "plotly>=6",
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools>=70.1",
        ],
        # For `python -m tests.mutation`.
        "mutation": ["cosmic-ray"],
        "docs": ["docutils>=0.22", "furo", "matplotlib", "myst-parser", "sphinx>=7.4", "sphinx-copybutton"],
        # What the scripts in experiments/ import.
        "experiments": [*PHOTOS, "matplotlib>=3.6", "plotly>=6", "scipy"],
        # Before 2.6 loaded files could run code despite weights_only. On Python 3.11 `torch==2.13.0` is a CPU build.
        "torch": ["torch>=2.6"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
