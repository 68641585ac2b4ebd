"""Code that tests share: one idea per file, and no tests."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
# Environment variables of JAX's compilation cache. JAX locks the folder only if its size is limited. Without the lock,
# a process could read an entry that another process is still writing.
COMPILATION_CACHE = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}
