"""Compiles the digits network to WebAssembly for the page docs/draw.md, and writes docs/_static/digits_wasm.js.

    recu export RUN --out=docs/_static/digits.recu
    python experiments/devices/page.py

RUN is a run of configs/digits.py. Needs `pip install ziglang`.
"""

import base64
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.devices.run import WARNINGS
from recu_jax import deploy
from recu_jax.deploy.c import source

STATIC = pathlib.Path(__file__).resolve().parents[2] / "docs" / "_static"
NETWORK, SCRIPT = STATIC / "digits.recu", STATIC / "digits_wasm.js"
PROGRAM = pathlib.Path(__file__).parent / "page.c"
# A reactor is a library: JavaScript calls its functions, and there is no main.
FLAGS = " ".join(["-target wasm32-wasi -mexec-model=reactor -O2 -s", *WARNINGS])
_SCRIPT = """\
// Made by experiments/devices/page.py from digits.recu with zig {version}: zig cc {flags}
// Base64, because a page that is opened from a folder may not fetch a file.
const DIGITS_WASM = `
{code}`;
"""


def digest(files) -> str:
    """Returns the SHA-256 of what the program is made of.

    These are the network's file, the network's C and page.c without comments, and the flags of the compiler. The C
    file of the weights is left out, because its text may depend on the processor. The network's file holds the same
    weights.
    """
    texts = [files[name] for name in sorted(files) if not name.endswith("_weights.h")]
    code = re.sub(r"/\*.*?\*/", "", "".join([*texts, PROGRAM.read_text()]), flags=re.DOTALL)
    return hashlib.sha256(NETWORK.read_bytes() + code.encode() + FLAGS.encode()).hexdigest()


def sources() -> dict[str, str]:
    """Generates C for the network docs/_static/digits.recu. Returns the text of each file by the file's name."""
    return dict(source.source("digits", deploy.load(NETWORK)).files)


def kept() -> bytes:
    """Returns the WebAssembly program that docs/_static/digits_wasm.js holds."""
    return base64.b64decode(re.search("`(.*)`", SCRIPT.read_text(), re.DOTALL)[1])


def main():
    files = sources()
    zig = [sys.executable, "-m", "ziglang"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, text in files.items():
            (folder / name).write_text(text)
        program = folder / "digits.wasm"
        define = f'-DRECU_SOURCES="{digest(files)}"'
        parts = [f"-I{folder}", folder / "digits.c", PROGRAM, "-lm", "-o", program]
        subprocess.run([*zig, "cc", *FLAGS.split(), define, *parts], check=True)
        code = program.read_bytes()
    version = subprocess.run([*zig, "version"], capture_output=True, text=True, check=True).stdout.strip()
    lines = "\n".join(textwrap.wrap(base64.b64encode(code).decode(), 120))
    SCRIPT.write_text(_SCRIPT.format(version=version, flags=FLAGS, code=lines))
    print(f"{SCRIPT} holds {len(code)} bytes of WebAssembly")


if __name__ == "__main__":
    main()
