"""Reads paths as users type them: replaces `~` by the home folder, and refuses addresses of other machines."""

import os
import re

from recu_jax.errors import UserError

_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
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
    if address := _ADDRESS.match(text):
        mount = _MOUNTS.get(address[1].lower())
        raise UserError(
            f"{name} is {text!r}, and recu_jax reads and writes folders of this machine alone; "
            + (f"mount the bucket ({mount}) and give DIR" if mount else "copy or mount it, and give the folder's path")
        )
    if text.startswith("~"):
        user = text.split("/")[0]
        raise UserError(f"{name} is {text!r}, and {user} has no home folder; a folder of that name here is ./{user}")
    return text
