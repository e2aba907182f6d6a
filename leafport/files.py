"""Files that appear whole or not at all, and the hashes that identify them.

An artifact is a file (``.tflite``) or a folder (``.mlpackage``, a SavedModel); everything here treats both alike.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leafport.errors import LeafportError, OutputError, UserError

MAX_JSON_BYTES = 64 * 2**20
_CHUNK = 2**20


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's sorted list of relative paths and file hashes, in hex."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in files_in(path):
            digest.update(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n".encode())
    else:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def files_in(path: Path) -> list[Path]:
    """The regular files of an artifact, in a stable order. Links are not followed."""
    if not path.is_dir():
        return [path]
    found = (Path(root) / name for root, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if file.is_file() and not file.is_symlink())


def size_bytes(path: Path) -> int:
    """Bytes an artifact takes on a device."""
    return sum(file.stat().st_size for file in files_in(path))


def zipped_bytes(path: Path) -> int:
    """Bytes an artifact takes as a download: its files deflated, as in an APK or IPA."""

    counter = _Counter()
    with zipfile.ZipFile(counter, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files_in(path):
            archive.write(file, file.name if file == path else file.relative_to(path))
    return counter.count


class _Counter(io.RawIOBase):
    """A stream that keeps nothing but the number of bytes written to it."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.count += len(data)
        return len(data)


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write a file or a folder to; moved into place, synced, if the block succeeds.

    Raises:
        OutputError: the place is missing, read-only or full.
    """
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with writable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield staging
            move_into_place(staging, target)
    finally:
        remove(staging)


def move_into_place(source: Path, target: Path) -> None:
    """Sync ``source`` to disk and rename it over ``target``, which may be an older file or folder."""
    for file in files_in(source):
        _sync(file)
    if target.is_dir() and not target.is_symlink():
        retired = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
        target.rename(retired)
        source.rename(target)
        remove(retired)
    else:
        source.replace(target)
    _sync(target.parent)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the file ``path`` for one process at a time; the system lets go of it when that ends, however it ends.

    Raises:
        OutputError: another process holds it (``busy`` is the message), or it cannot be written.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(busy) from None
        yield


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none. Raises OutputError."""
    with staged(path) as staging:
        staging.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or none. Raises OutputError."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or none, readable by people. Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *, error: type[LeafportError] = UserError) -> Any:
    """Read a JSON file of at most 64 MiB; ``error`` is what to raise when it cannot be read."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB: this is not a file leafport wrote.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path} cannot be read as JSON: {problem}") from None


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write at ``path`` into an OutputError that says what to do."""
    try:
        yield
    except OSError as problem:
        remedy = {
            errno.ENOSPC: "The disk is full: free some space or write elsewhere.",
            errno.EDQUOT: "The disk quota is used up: free some space or write elsewhere.",
            errno.EROFS: "The file system is read-only: write elsewhere.",
            errno.EACCES: "You may not write there: change its permissions or write elsewhere.",
            errno.EPERM: "You may not write there: change its permissions or write elsewhere.",
            errno.ENOTDIR: "A part of this path is a file, not a folder: write elsewhere.",
            errno.EEXIST: "A file stands where a folder is needed: remove it or write elsewhere.",
            errno.EISDIR: "A folder stands where a file is needed: remove it or write elsewhere.",
        }.get(problem.errno or 0)
        if problem.errno == errno.ENOENT and problem.filename and Path(problem.filename).parent == path.parent:
            remedy = "Nothing can be created there: write elsewhere."  # A missing file elsewhere is another's fault.
        if remedy is None:
            raise
        raise OutputError(f"{path} cannot be written ({problem.strerror}). {remedy}") from problem


def require_space(path: Path, wanted_bytes: int) -> None:
    """Raise OutputError where the disk that ``path`` is to lie on has no room for so many bytes."""
    free = shutil.disk_usage(path.resolve().parent).free
    if free < wanted_bytes:
        raise OutputError(
            f"{path} cannot be written: {wanted_bytes / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are "
            "free. Free some space or write elsewhere."
        )


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def inside(root: Path, relative: str) -> Path:
    """``root / relative``, refused when it leads out of ``root``: for paths read from manifests and archives.

    Raises:
        UserError: the path is absolute or escapes.
    """
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(f"{relative!r} points outside {root}: this file was not written by leafport. Do not use it.")
    return root / relative


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
