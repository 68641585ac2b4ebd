"""Reads paths as users type them: replaces `~` by the home folder.

URLs, which this module calls addresses, are refused, except `s3://BUCKET/run` and `gs://BUCKET/run` for the workdir of
a run.
"""

import os
import re

from recu_jax.errors import UserError

# One slash is enough, because `pathlib.Path` turns `gs://BUCKET/run` into `gs:/BUCKET/run`. Users type `./gs:` for a
# local folder with the name `gs:`.
_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")
# A folder in a bucket: at least one name after the name of the bucket. The names `.` and `..` are refused.
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
    """Does the same as `local`, but also accepts a folder in a bucket: `s3://BUCKET/run` or `gs://BUCKET/run`.

    Args:
      path: the workdir of a run.
      name: as for `local`.

    Returns:
      The path, or the address without `/` at its end.

    Raises:
      UserError: as for `local`; or the address begins with `s3:` or `gs:` and names no folder in a bucket.
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
    """Returns whether a path, as `of_run` returns it, is a folder in a bucket."""
    return _RUN.match(os.fspath(path)) is not None


def how_to_mount(address: str) -> str:
    """Returns advice for error messages: how to get a folder on this machine in place of `address`."""
    mount = _MOUNTS.get(address.partition(":")[0].lower())
    return f"mount the bucket ({mount}) and give DIR" if mount else "copy or mount it, and give the folder's path"
