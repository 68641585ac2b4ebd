"""Keeps the workdir of a run in a bucket, at an address such as `s3://BUCKET/run` or `gs://BUCKET/run`.

The run itself works in a folder of this machine, the copy, because its locks, renames and appends need a file system.
New files are uploaded from the copy to the bucket after each checkpoint, and at the end of the run.
"""

import contextlib
import os
import sys
import threading
import urllib.parse
from collections.abc import Iterator

from recu_jax import paths
from recu_jax.errors import RunFailed, UserError
from recu_jax.training import distributed
from recu_jax.training.bucket_copy import BucketCopy
from recu_jax.training.progress import say


def folder_of(workdir: str) -> str:
    """Returns the folder in which a run works: `workdir`, or for a bucket, the copy in `~/.cache/recu_jax`."""
    if not paths.in_bucket(workdir):
        return workdir
    scheme, rest = workdir.split("://")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Every `/` is escaped. Otherwise the copy of `runs` would contain the copy of `runs/digits`.
    return os.path.join(cache, "recu_jax", scheme, urllib.parse.quote(rest, safe=""))


def fetched(workdir: str) -> str:
    """Returns the folder with the files of a run. Downloads them first if they are in a bucket and newer there.

    Raises:
      UserError: the bucket cannot be read, or a run is working in the copy that would be replaced.
    """
    if paths.in_bucket(workdir):
        BucketCopy(workdir, folder_of(workdir)).fetch()
    return folder_of(workdir)


@contextlib.contextmanager
def mirrored(workdir: str) -> Iterator[str]:
    """Downloads a run as `fetched` does. Uploads new files after each checkpoint, and at the end of the block.

    If an upload fails during the block, a line on stderr says so, and the upload after the next checkpoint tries again.

    Args:
      workdir: workdir of the run. If it is not in a bucket, nothing is copied.

    Yields:
      The folder in which the run works.

    Raises:
      UserError: the bucket cannot be read or written to, or a run with a bucket has several processes.
      RunFailed: the run finished, and the last upload failed.
    """
    if not paths.in_bucket(workdir):
        yield workdir
        return
    if distributed.several():
        raise UserError(
            f"the workdir is {workdir!r}, and a run of several processes needs a folder that all of them see; "
            f"{paths.how_to_mount(workdir)}"
        )
    bucket, ended = BucketCopy(workdir, folder_of(workdir)), threading.Event()
    bucket.check_writable()
    bucket.fetch()
    say(f"{workdir} gets each checkpoint; the run works in {bucket.folder}")
    follower = threading.Thread(target=bucket.follow, args=[ended], daemon=True)
    follower.start()
    problem = failed = None
    try:
        yield str(bucket.folder)
    except BaseException as error:
        failed = error
        raise
    finally:
        ended.set()
        follower.join()
        if not isinstance(failed, UserError):  # after a UserError there is nothing new to upload
            problem = bucket.problem_of_copying()
        if problem and failed:
            say(problem, sys.stderr)
    if problem:
        raise RunFailed(f"the run finished, but {problem}; run the same command again")
