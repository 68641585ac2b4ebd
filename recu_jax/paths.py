"""Reads paths as users type them: replaces `~` by the home folder.

Addresses of other machines are refused, except those of runs in buckets.
"""

import os
import re

from recu_jax.errors import UserError

# One slash is enough: `pathlib.Path` makes `gs:/BUCKET/run` of an address. A folder of such a name is `./gs:`.
_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")
# A folder in a bucket. What lies above it is not named.
_RUN = re.compile(r"^(s3|gs)://[^/]+(/(?!\.{1,2}(/|$))[^/]+)+$")
_MOUNTS = {"gs": "gcsfuse BUCKET DIR", "s3": "mount-s3 BUCKET DIR"}


def local(path: str | os.PathLike, name: str = "the path") -> str:
    """Returns a path with `~` and `~USER` at its start replaced by the home folder.

    Args:
      path: a file or folder on this machine. It need not exist.
      name: the flag or config field that holds the path. Error messages name it.

    Raises:
      UserError: the path is an address, such as `gs://BUCKET/run`, or names a user without a home folder.
    """
    text = os.path.expanduser(path)
    if _ADDRESS.match(text):
        raise UserError(f"{name} is {text!r}, and it must be on this machine; {how_to_mount(text)}")
    if text.startswith("~"):
        user = text.split("/")[0]
        raise UserError(f"{name} is {text!r}, and {user} has no home folder; a folder of that name here is ./{user}")
    return text


def of_run(path: str | os.PathLike, name: str = "the workdir") -> str:
    """As `local`, for the workdir of a run. It may also be a folder in a bucket: `s3://BUCKET/run`, `gs://BUCKET/run`.

    Returns:
      The path, or the address without `/` at its end.

    Raises:
      UserError: as `local`; or the address names no folder.
    """
    text = os.fspath(path).rstrip("/")
    if in_bucket(text):
        return text
    if re.match("(s3|gs):", text) and _ADDRESS.match(os.fspath(path)):
        raise UserError(
            f"{name} is {os.fspath(path)!r}, which names no folder in a bucket; give one, such as s3://BUCKET/run"
        )
    return local(path, name)


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path, as `of_run` returns it, is a folder in a bucket."""
    return _RUN.match(os.fspath(path)) is not None


def how_to_mount(address: str) -> str:
    """What to do with an address where a folder of this machine is needed."""
    mount = _MOUNTS.get(address.partition(":")[0].lower())
    return f"mount the bucket ({mount}) and give DIR" if mount else "copy or mount it, and give the folder's path"
