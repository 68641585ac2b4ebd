"""Writes a network as a folder of C99: NAME.h, NAME.c, NAME_weights.h, and headers that all networks share."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

import jax
import numpy as np

import recu_jax
from recu_jax.deploy import container, runtime
from recu_jax.deploy.c.arena import plan
from recu_jax.deploy.c.lines import Lines, elements_of
from recu_jax.deploy.c.steps import steps_of
from recu_jax.deploy.graph import Node
from recu_jax.deploy.model import Model
from recu_jax.errors import UserError

SHARED = ("recu_bits.h", "recu_conv.h", "recu_rows.h")
# Compilers take gigabytes of memory for larger arrays. imagenet_resnet34 has 5.6 MB.
MAX_WEIGHT_BYTES = 1 << 24
_TYPES = {"f": "float", "u": "uint32_t", "i": "int32_t"}
_LITERALS = {"f": "{}f", "u": "0x{:x}u", "i": "{}"}


@dataclasses.dataclass(frozen=True)
class Source:
    """The C code of a network.

    Attributes:
      files: the text of each file, by name.
      weight_bytes: size of the constant arrays.
      ram_bytes: size of the static buffers.
    """

    files: Mapping[str, str]
    weight_bytes: int
    ram_bytes: int


def name_of(path: pathlib.Path | str) -> str:
    """Returns the name of a network in C, which is the name of its folder.

    Raises:
      UserError: the name has characters other than ASCII letters, digits and _, does not begin with a letter, or begins
        with recu_.
    """
    name = pathlib.Path(path).name
    if not re.fullmatch(r"(?!recu_)[A-Za-z]\w*", name, re.ASCII):
        raise UserError(
            f"the folder is {name!r}, and its name is the network's in C; give one of letters, digits and _, that "
            "begins with a letter, and not with recu_"
        )
    return name


def write(path: pathlib.Path | str, model: Model) -> None:
    """Writes the files of a network to a folder. Replaces files of the same names, and leaves other files.

    Raises:
      UserError: as in `name_of` and `source`; or the folder cannot be written.
    """
    made = source(name_of(path), model)
    folder = pathlib.Path(path)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made a folder: {error.strerror}; give another --out") from error
    for name, text in made.files.items():
        container.write_bytes(folder / name, text.encode())


def source(name: str, model: Model) -> Source:
    """Makes the files of a network.

    Raises:
      UserError: as in `steps_of`; or the weights have more than `MAX_WEIGHT_BYTES` bytes.
    """
    nodes = model.nodes
    steps = steps_of(nodes)
    sizes = {i: elements_of(nodes[i]) for step in steps for i in step.stored}
    real_offsets, reals = plan(nodes, steps, sizes, "real")
    sign_offsets, signs = plan(nodes, steps, sizes, "bits")
    lines = Lines(nodes, real_offsets | sign_offsets, _image_values(nodes[0]))
    body = [line for step in steps for line in lines.of(step)]
    weight_bytes = sum(array.nbytes for array in lines.constants.values())
    if weight_bytes > MAX_WEIGHT_BYTES:
        raise UserError(
            f"{model.header.model} has {weight_bytes} bytes of weights, and C is written up to {MAX_WEIGHT_BYTES}; "
            "export --format=recu"
        )
    buffers = {
        "float reals": reals, "uint32_t signs": signs, "float row": lines.row, "int32_t sums": lines.sums,
        "float patch": lines.patch,
    }  # fmt: skip
    ram_bytes = 4 * sum(buffers.values())
    declared = "".join(f"static {buffer}[{count}];\n" for buffer, count in buffers.items() if count)
    files = {
        f"{name}.h": _header(name, model, weight_bytes, ram_bytes),
        f"{name}.c": _PROGRAM.format(name=name, buffers=declared, body=_indented(body)),
        f"{name}_weights.h": _weights(name, lines.constants),
    }
    folder = pathlib.Path(__file__).parent
    files |= {shared: (folder / shared).read_text() for shared in SHARED}
    return Source(files, weight_bytes, ram_bytes)


def _image_values(image: Node) -> np.ndarray:
    """Returns the normalized value of each byte, 0 to 255, in each channel, as the runtime computes it.

    Returns:
      float32, (channels, 256).
    """
    function, arrays = runtime.compile_steps([image], "xla")
    channels = image.value.shape[-1]
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, channels)).reshape(1, 16, 16, channels)
    return np.ascontiguousarray(np.asarray(jax.jit(function)(arrays, pixels)).reshape(256, channels).T)


def _indented(lines):
    text, depth = [], 1
    for line in "\n".join(lines).split("\n"):
        depth -= line.startswith("}")
        text.append("  " * depth + line)
        depth += line.endswith("{")
    return "\n".join(text)


def _weights(name, constants):
    parts = [f"/* The weights of {name}. Only {name}.c includes this file. */\n#include <stdint.h>\n"]
    for constant, array in constants.items():
        kind = array.dtype.kind
        # `str` of a float32 gives the shortest text from which a C compiler reads the same float32.
        numbers = [
            _LITERALS[kind].format(n) for n in (map(str, array.ravel()) if kind == "f" else array.ravel().tolist())
        ]
        parts.append(f"\nstatic const {_TYPES[kind]} {constant}[{array.size}] = {{\n")
        parts += ["  " + ", ".join(numbers[i : i + 8]) + ",\n" for i in range(0, len(numbers), 8)]
        parts.append("};\n")
    return "".join(parts)


def _header(name, model, weight_bytes, ram_bytes):
    height, width, channels = model.image_shape
    upper = name.upper()
    sizes = {
        "HEIGHT": height, "WIDTH": width, "CHANNELS": channels, "CLASSES": model.num_classes,
        "WEIGHT_BYTES": weight_bytes, "RAM_BYTES": ram_bytes,
    }  # fmt: skip
    prepared = "".join(f"\n   {key} = {value}" for key, value in model.header.preprocessing.items())
    return _HEADER.format(
        name=name,
        upper=upper,
        version=recu_jax.__version__,
        model=model.header.model.replace("*/", ""),
        prepared=f"\n\n   Photographs are prepared as in evaluation:{prepared}" if prepared else "",
        defines="\n".join(f"#define {upper}_{key} {value}" for key, value in sizes.items()),
    )


_HEADER = """\
/* A {model}, written by recu_jax {version}. Compile {name}.c by a C99 compiler, and link with -lm.{prepared} */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* WEIGHT_BYTES are constant arrays, for flash. RAM_BYTES are static buffers: nothing is allocated. */
{defines}

/* Computes the logits of an image.

   image: bytes, (HEIGHT, WIDTH, CHANNELS): rows, then columns, then channels.
   logits: CLASSES numbers. The largest is that of the predicted class.

   Returns 0, or -1 if a pointer is null. Threads must not call it at the same time: the buffers are shared. */
int {name}_predict(const uint8_t *image, float *logits);

/* The instructions that count bits: "AVX2", "NEON", "Cortex-M DSP" or "C99". */
const char *{name}_kernels(void);

#ifdef __cplusplus
}}
#endif

#endif
"""

_PROGRAM = """\
#include "{name}.h"

#include <stddef.h>

#include "recu_conv.h"
#include "recu_rows.h"

#include "{name}_weights.h"

/* Stored values, and what belongs to the pixel that is computed. */
{buffers}
int {name}_predict(const uint8_t *image, float *logits) {{
  if (image == NULL || logits == NULL) return -1;
{body}
  return 0;
}}

const char *{name}_kernels(void) {{ return RECU_KERNELS; }}
"""
