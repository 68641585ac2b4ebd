"""Copies the files of a run between a bucket and a folder of this machine, the copy.

A checkpoint in the bucket is valid only if its record is there too. A run can be resumed from the bucket at every
moment, because an upload has this order:

1. It sends the files outside the checkpoints. A resumed run drops extra rows of metrics, but cannot add missing ones.
2. It sends the files of each new checkpoint, the record last.
3. It deletes the checkpoints that the copy no longer has, their records first, if the newest one was sent.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator

import filelock

from recu_jax.errors import UserError, one_line, require
from recu_jax.training.checkpoint.lock import FILE as LOCK
from recu_jax.training.checkpoint.lock import WorkdirLock
from recu_jax.training.checkpoint.reading import FOLDER
from recu_jax.training.progress import say

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_LOGINS = {"s3": "aws configure", "gs": "gcloud auth application-default login"}
# s3fs retries by itself. Without these limits it would take minutes to report that a server is gone.
_OPTIONS = {"s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}}
_RECORD = re.compile(rf"{FOLDER}/(\d+)/record/metadata")
# File in the copy with digests of records, one a line. Copy and bucket both held these checkpoints. After a download it
# has only the newest.
_SHARED = ".in_bucket"
_NOT_COPIED = {LOCK, f"{LOCK}.holder", _SHARED}
_LOOK_EVERY_SECONDS = 0.5
_TRIES = 3


class BucketCopy:
    """The files of a run at `address` in a bucket, and their copy in `folder` on this machine."""

    def __init__(self, address: str, folder: str):
        scheme, self._root = address.split("://")
        require(_PACKAGES[scheme])
        import fsspec  # comes with s3fs and gcsfs

        self._address, self._scheme, self.folder = address, scheme, pathlib.Path(folder)
        # Size and modification time of each file outside the checkpoints, when it was sent.
        self._sent: dict[str, tuple[int, int]] = {}
        self._same: dict[str, str] = {}  # digests of the records in the bucket
        self._tried: set[str] = set()  # digests of the records that this process began to send
        with self._failing("read"):
            options = {"skip_instance_cache": True, "use_listings_cache": False, **_OPTIONS.get(scheme, {})}
            self._files = fsspec.filesystem(scheme, **options)

    def check_writable(self) -> None:
        """Writes and deletes an empty file. Raises UserError if that fails."""
        with self._failing("written to"):
            self._files.pipe_file(f"{self._root}/.writable", b"")
            self._files.rm_file(f"{self._root}/.writable")

    def fetch(self) -> None:
        """Replaces the copy with the bucket's files, unless the copy is as new or newer."""
        with self._failing("read"):
            step, there = self._newest_there(self._there())
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self.folder}.lock"):
                here = self._digests_here()
                # A copy that has, or once had, the bucket's newest checkpoint is not older than the bucket.
                if there is not None and (not here or there not in self._shared() | set(here.values())):
                    return self._download()
                if there and there in here.values():
                    self._share(there)  # the run may have been killed just after it sent the record
                if here and max(here) > step:
                    has = "no checkpoint" if there is None else f"step {step}"
                    say(f"{self._address} holds {has}; step {max(here)} is taken from {self.folder} (delete to drop)")

    def follow(self, ended: threading.Event) -> None:
        """Uploads new files each time the checkpoints of the copy change. Returns when `ended` is set."""
        before: dict[int, str] = {}
        while not ended.wait(_LOOK_EVERY_SECONDS):
            now = self._digests_here()
            if now != before:
                before = now
                if problem := self.problem_of_copying():
                    say(f"{problem}; the next checkpoint tries again", sys.stderr)

    def problem_of_copying(self) -> str | None:
        """Uploads new files. Returns None, or one line that says why the upload failed."""
        try:
            with self._failing("written to"):
                self._copy()
        except UserError as error:
            return f"{error}; what the bucket lacks is in {self.folder}"
        return None

    def _copy(self):
        names, here = self._there(), self._digests_here()
        _, newest = self._newest_there(names)
        if newest not in {None} | self._shared() | self._tried | set(here.values()):
            raise UserError(f"another run writes to {self._address}; give another --workdir")
        for name in self._here():
            if not name.startswith(f"{FOLDER}/"):
                self._send(name, names)
        for step, digest in sorted(here.items()):
            self._send_checkpoint(step, digest, names)
        if not here or here[max(here)] not in self._shared():  # deleted before it was sent
            return
        # Checkpoints that the copy had when this upload began stay: newer ones may not be in the bucket yet.
        stay = tuple(f"{FOLDER}/{step}/" for step in here)
        gone = {n for n in names - self._here() if n.startswith(f"{FOLDER}/") and not n.startswith(stay)}
        for step in _steps(gone):
            self._files.rm_file(f"{self._root}/{_record(step)}")
        if rest := gone - {_record(step) for step in _steps(gone)}:
            self._files.rm([f"{self._root}/{n}" for n in sorted(rest)])

    def _send(self, name, names):
        with contextlib.suppress(FileNotFoundError):
            stat = (self.folder / name).stat()
            as_sent = (stat.st_size, stat.st_mtime_ns)
            if name not in names or self._sent.get(name) != as_sent:
                self._files.pipe_file(f"{self._root}/{name}", (self.folder / name).read_bytes())
                self._sent[name] = as_sent

    def _send_checkpoint(self, step, digest, names):
        record = _record(step)
        if record in names:
            if record not in self._same:
                self._same[record] = _digest(self._files.cat_file(f"{self._root}/{record}"))
            if self._same[record] == digest:
                return self._share(digest)
        parts = self._parts(step)
        try:
            data = (self.folder / record).read_bytes()
            self._files.put([str(self.folder / p) for p in parts], [f"{self._root}/{p}" for p in parts])
        except FileNotFoundError:  # if the record is gone as well, Orbax has just deleted this checkpoint
            if (self.folder / record).exists():
                raise
            return
        # If Orbax has begun to delete this checkpoint, its record is not sent, which makes it invalid in the bucket.
        if parts and parts == self._parts(step):
            sent = _digest(data)
            self._tried.add(sent)  # the bucket may have the record even if its answer is lost
            self._files.pipe_file(f"{self._root}/{record}", data)
            self._same[record] = sent
            self._share(sent)

    def _parts(self, step):
        return sorted(n for n in self._here(f"{FOLDER}/{step}") if n != _record(step))

    def _download(self):
        """Replaces the copy. An old copy whose newest checkpoint was never in the bucket is kept under a new name."""
        aside = self.folder.with_name(f"{self.folder.name}.fetching")
        for tried in range(1, _TRIES + 1):
            shutil.rmtree(aside, ignore_errors=True)
            names = self._there()
            whole = tuple(f"{FOLDER}/{step}/" for step in _steps(names))
            wanted = [n for n in names if n.startswith(whole) or not n.startswith(f"{FOLDER}/")]
            try:
                _, newest = self._newest_there(names)
                self._files.get([f"{self._root}/{n}" for n in wanted], [str(aside / n) for n in wanted])
                break
            except FileNotFoundError:  # a run on another machine has deleted a checkpoint meanwhile
                if tried == _TRIES:
                    raise
        (aside / _SHARED).write_text(f"{newest or ''}\n")
        if self.folder.exists():
            lock = WorkdirLock(self.folder)
            lock.acquire()  # raises UserError if a run is working in the copy
            lock.release()
            here = self._digests_here()
            if here and here[max(here)] not in self._shared():
                free = (self.folder.with_name(f"{self.folder.name}.{i}") for i in range(1, 1 << 20))
                kept = next(path for path in free if not path.exists())
                self.folder.rename(kept)
                say(f"{self.folder} held another state than {self._address}; it is now {kept}")
            shutil.rmtree(self.folder, ignore_errors=True)
        aside.rename(self.folder)

    def _there(self) -> set[str]:
        """Returns the names of the run's files in the bucket, relative to the folder of the run."""
        found = {name[len(self._root) + 1 :] for name in self._files.find(self._root)}
        return {n for n in found if n and not n.endswith("/") and ".." not in n.split("/")} - _NOT_COPIED

    def _here(self, below: str = "") -> set[str]:
        """Returns the names of the copy's files, without temporary files and unfinished checkpoints."""
        found = set()
        for folder, _, files in os.walk(self.folder / below):
            found |= {pathlib.Path(folder, f).relative_to(self.folder).as_posix() for f in files}
        return {n for n in found if not n.endswith(".tmp") and "-checkpoint-tmp" not in n} - _NOT_COPIED

    def _digests_here(self) -> dict[int, str]:
        """Returns the digest of the record of each checkpoint in the copy, by step."""
        found = {}
        for file in (self.folder / FOLDER).glob("*/record/metadata"):
            if file.parents[1].name.isdecimal():
                with contextlib.suppress(OSError):
                    found[int(file.parents[1].name)] = _digest(file.read_bytes())
        return found

    def _newest_there(self, names: Iterable[str]) -> tuple[int, str | None]:
        """Returns step and record digest of the newest checkpoint in the bucket, or -1 and None if there is none."""
        step = max(_steps(names), default=-1)
        return step, None if step < 0 else _digest(self._files.cat_file(f"{self._root}/{_record(step)}"))

    def _shared(self) -> set[str]:
        file = self.folder / _SHARED
        return set(file.read_text().split()) if file.exists() else set()

    def _share(self, digest: str) -> None:
        if digest not in self._shared():
            with open(self.folder / _SHARED, "a") as file:
                file.write(f"{digest}\n")

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # s3fs and gcsfs raise exceptions of many types
            reason = f"{one_line(error, 160)}; see to the network, the bucket and the credentials"
            if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
                reason = f"there are no credentials; type: {_LOGINS[self._scheme]}"
            raise UserError(f"{self._address} cannot be {what}: {reason}") from error


def _record(step: int) -> str:
    return f"{FOLDER}/{step}/record/metadata"


def _steps(names: Iterable[str]) -> set[int]:
    return {int(found[1]) for found in map(_RECORD.fullmatch, names) if found}


def _digest(record: bytes) -> str:
    return hashlib.blake2b(record, digest_size=16).hexdigest()
