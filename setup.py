"""Package metadata; tool settings are in pyproject.toml."""

import hashlib
import os
import pathlib
import re

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "recu_jax" / "__init__.py").read_text()).group(1)
PYTHONS = ("3.11", "3.12", "3.13")
# Only CITATION.cff holds the address of the repository. If it holds none, the page on PyPI has no links to files.
CITATION = (ROOT / "CITATION.cff").read_text()
REPOSITORY = next(iter(re.findall(r'^repository-code: "?(.+?)/?"?$', CITATION, re.MULTILINE)), None)
BADGES = (
    "![Licence: Apache-2.0](https://img.shields.io/badge/licence-Apache--2.0-blue) "
    f"![Python {PYTHONS[0]} to {PYTHONS[-1]}](https://img.shields.io/badge/Python-{PYTHONS[0]}%20to%20{PYTHONS[-1]}-blue)"
)

# With array_record, TFDS reads data sets without TensorFlow. TFDS imports importlib_resources, but pip does not install
# it with TFDS. Photographs that stay on the disk are read with Grain, OpenCV and Pillow.
DATA = [
    "array_record",
    "grain>=0.2.18",
    "importlib_resources",
    "opencv-python-headless>=4.12",
    "pillow>=11.0",
    "tensorflow-datasets>=4.9.9",
]
# For report.html.
REPORT = ["plotly>=6"]
# Before PyTorch 2.6, loaded files could run code in spite of weights_only=True.
TORCH = ["torch>=2.6"]
ONNX = ["onnx", "onnxruntime"]
# Packages without an extra of their own, because each feature needs only one of them, and its error message names the
# package. The features: `recu export --format=stablehlo` (jax.export needs flatbuffers), the check of an export with
# `--format=qonnx`, runs in gs:// and s3://, and experiment trackers.
SINGLE = ["flatbuffers", "gcsfs", "qonnx", "s3fs", "trackio>=0.43", "wandb>=0.31"]
# The tests execute experiments/colab_tpu.ipynb.
NOTEBOOK = ["ipykernel", "nbclient", "nbformat"]
# The tests keep the workdirs of runs on moto's S3 server.
BUCKETS = ["s3fs", "moto[s3]>=5", "flask", "flask-cors"]

KERNELS = pathlib.Path("recu_jax") / "ops" / "csrc"
SOURCES = sorted(path for path in (ROOT / KERNELS).iterdir() if path.suffix in (".cc", ".h"))
# Kernels that were built in place stay when their sources change. This digest tells recu_jax.ops.native that they are
# old.
DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()
# release/build_wheels.py sets RECU_JAX_KERNELS. "required": a build without kernels fails. "none": kernels are not
# built. Otherwise they are built if possible.
WANTED = os.environ.get("RECU_JAX_KERNELS", "if possible")
# -ffp-contract=off: the compiler does not make an fma of a product and a sum, because the other rounding could flip a
# sign. -fvisibility=hidden: no other library of the process can replace a function of the C++ library in the kernels.
FLAGS = "-std=c++17 -O3 -Wall -Wextra -ffp-contract=off -fvisibility=hidden"


def long_description():
    """Returns the README for PyPI: with badges, and with absolute links to files of this version's repository."""

    def absolute(link):
        picture, text, path = link.groups()
        if REPOSITORY is None:
            return "" if picture else text
        return f"{picture}[{text}]({REPOSITORY}/{'raw' if picture else 'blob'}/v{VERSION}/{path})"

    title, rest = (ROOT / "README.md").read_text().split("\n", 1)
    # Links to a file begin with neither a scheme nor `#`.
    linked = re.sub(r"(!?)\[([^][]*)\]\((?!\w+:|#)([^)\s]+)\)", absolute, rest)
    return f"{title}\n\n{BADGES}\n{linked}"


def project_urls():
    """Returns the links in the sidebar of the page on PyPI."""
    urls = {"Paper": "https://arxiv.org/abs/2103.12369"}
    if REPOSITORY is not None:
        files = f"{REPOSITORY}/blob/v{VERSION}"
        urls |= {
            "Source": REPOSITORY,
            "Documentation": f"{files}/docs/index.md",
            "Changelog": f"{files}/CHANGELOG.md",
            "Issues": f"{REPOSITORY}/issues",
        }
    return urls


class BuildKernels(build_ext):
    """Builds the compiled kernels if possible. The package works without them, unless `WANTED` requires them."""

    def run(self):
        try:
            # XLA's headers come with jaxlib, a build requirement in pyproject.toml.
            import jax.ffi

            for extension in self.extensions:
                # -isystem: the compiler does not warn about XLA's headers, only about recu_jax's code.
                extension.extra_compile_args += ["-isystem", jax.ffi.include_dir()]
            super().run()
        except Exception as error:  # no compiler, a compiler that fails, no jax
            if WANTED == "required":
                raise
            print(f"recu_jax is installed without its compiled kernels ({error}); 1-bit models run in XLA, slower")


class OneWheel(bdist_wheel):
    """Tags the wheel for all versions of Python 3, because the kernels do not use Python's C API: XLA calls them."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setup(
    name="recu_jax",
    version=VERSION,
    description="1-bit neural networks in JAX and Flax: ReCU layers, models and training",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    project_urls=project_urls(),
    keywords=["JAX", "Flax", "binary neural networks", "1-bit", "quantization", "ReCU"],
    # The wheel has the configs, so that --config=configs/digits.py works without a checkout (`config_flag`).
    packages=[*find_packages(include=["recu_jax", "recu_jax.*"]), "recu_jax.configs"],
    package_dir={"recu_jax": "recu_jax", "recu_jax.configs": "configs"},
    package_data={
        "": ["py.typed", "*.pyi", "*.html", "*.css", "*.js"],
        "recu_jax.deploy.c": ["*.h"],
        "recu_jax.networks": ["*.recu", "*.safetensors", "*.md"],
    },
    python_requires=">=3.11",
    ext_modules=[
        Extension(
            "recu_jax.ops._kernels",
            sources=[str(KERNELS / path.name) for path in SOURCES if path.suffix == ".cc"],
            depends=[str(KERNELS / path.name) for path in SOURCES if path.suffix == ".h"],
            define_macros=[("RECU_SOURCES", f'"{DIGEST}"')],
            extra_compile_args=FLAGS.split(),
            language="c++",
        )
    ]
    if WANTED != "none"
    else [],
    entry_points={"console_scripts": ["recu = recu_jax.__main__:main"]},
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": OneWheel},
    # What training needs is in this list and not in an extra, so that one command installs layers and training. jax and
    # flax, with all that they install, take 718 MB; Orbax, rich, optax and TensorStore are among that. This list adds
    # 12 packages and 74 MB. `tests/test_extras.py` limits the number of packages that it adds.
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
        "optax>=0.2.6",
        # 1.0 will have another API under the name orbax.checkpoint: Orbax's page "What is the Orbax V1 API?".
        "orbax-checkpoint>=0.12.4,<1",
        "rich",
        "safetensors>=0.5",
        "scikit-learn",
        "tensorboardX",
        "tqdm",
    ],
    extras_require={
        "data": DATA,
        "report": REPORT,
        "torch": TORCH,
        "onnx": ONNX,
        # All packages that an error message asks for, except TensorFlow: it is needed only once, to prepare a data set.
        "all": [*DATA, *REPORT, *TORCH, *ONNX, *SINGLE],
        # Tests build the compiled kernels in the checkout with setuptools, which is no part of Python 3.12 and later.
        "test": [
            *DATA,
            *REPORT,
            *NOTEBOOK,
            *BUCKETS,
            "flatbuffers",
            "hypothesis",
            "pytest",
            "pytest-xdist",
            "readme_renderer[md]",
            "ruff",
            "setuptools>=77",
        ],
        "docs": ["docutils>=0.22", "furo", "matplotlib", "myst-parser", "sphinx>=7.4", "sphinx-copybutton"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
