"""Photographs in folders, and their split into training, validation and test, which is a file (``splits.json``).

Every photograph is opened once, by ``scan``; what cannot be opened is left out and listed. ``split`` goes by the
content's hash, never by name or order on disk, so the same bytes are never on two sides, and two machines with the same
photographs agree.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leafport import files, images
from leafport.errors import DataError, ImageError

MIN_PER_CLASS = 3


@dataclass(frozen=True)
class Photo:
    """One usable photograph. ``path`` is ``folder/name`` relative to the root, with forward slashes."""

    path: str
    folder: str
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """A file that looks like a photograph and is not used."""

    path: str
    reason: str


@dataclass(frozen=True)
class PhotoFolder:
    """What ``scan`` found under ``root``, sorted by path."""

    root: Path
    photos: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """The class folders that hold usable photographs, sorted."""
        return tuple(sorted({photo.folder for photo in self.photos}))


@dataclass(frozen=True)
class Splits:
    """Which photographs a classifier learns from, is tuned on and is judged by.

    ``label_of`` maps each class folder to its label; the labels' order is that of their first appearance in it.
    """

    root: Path
    seed: int
    label_of: dict[str, str]
    train: tuple[Photo, ...]
    validation: tuple[Photo, ...]
    test: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the model's outputs."""
        return tuple(dict.fromkeys(self.label_of.values()))

    def label_index(self, photo: Photo) -> int:
        """Which of the model's outputs is right for ``photo``."""
        return self.labels.index(self.label_of[photo.folder])

    @property
    def folders(self) -> tuple[str, ...]:
        """The class folders, sorted."""
        return tuple(sorted(self.label_of))

    @property
    def sides(self) -> dict[str, tuple[Photo, ...]]:
        """The three sides by name, in order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def file(self, photo: Photo) -> Path:
        """Where ``photo`` lies."""
        return self.root / photo.path

    def save(self, path: Path) -> None:
        """Write ``splits.json``. Raises OutputError."""
        sides = {side: [{"path": p.path, "sha256": p.sha256} for p in photos] for side, photos in self.sides.items()}
        skipped = [{"path": s.path, "reason": s.reason} for s in self.skipped]
        head = {"schema_version": 1, "root": str(self.root), "seed": self.seed, "label_of": self.label_of}
        files.write_json(path, {**head, **sides, "skipped": skipped})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``splits.json``; the photographs themselves are not looked at.

        Raises:
            DataError: the file is missing or damaged, a path leads out of its class folder, or the same photograph
                is on two sides.
        """
        value = files.read_json(path, error=DataError)
        try:
            read = _SplitsFile.model_validate(value)
        except ValidationError as problem:
            first = problem.errors()[0]
            raise DataError(
                f"{path} does not hold splits leafport wrote ({'.'.join(map(str, first['loc']))}: {first['msg']})."
            ) from None
        sides = [tuple(_checked(entry, read.label_of, path) for entry in side) for side in read.sides]
        hashes = [{photo.sha256 for photo in side} for side in sides]
        if hashes[0] & hashes[1] or hashes[0] & hashes[2] or hashes[1] & hashes[2]:
            raise DataError(f"{path} has the same photograph on two sides of the split. Train again.")
        skipped = tuple(Skipped(entry.path, entry.reason) for entry in read.skipped)
        return cls(Path(read.root), read.seed, read.label_of, sides[0], sides[1], sides[2], skipped)


def scan(
    root: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    learn: bool = True,
    disputed: bool = False,
) -> PhotoFolder:
    """Find, open and hash every photograph of the class folders directly under ``root``.

    Files whose suffix is an image's but which cannot be used are skipped and listed: damaged or mislabelled ones,
    those too large, and those whose very bytes also lie in another class's folder, since one of the two labels is
    wrong and nobody here knows which. Other files, hidden ones and deeper folders are ignored.

    Args:
        root: the folder of class folders.
        progress: called with (photographs opened, photographs in all) as they are opened.
        learn: whether these are photographs to learn from, so that there must be two classes and none empty.
        disputed: keep photographs whose bytes lie in several classes, for whoever looks for such.

    Raises:
        DataError: no such folder, no photographs, a single class, or a class without photographs.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that holds one folder of photographs per class.")
    try:
        found = {folder: _candidates(folder) for folder in _visible(root) if folder.is_dir()}
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read ({problem.strerror}). Change its permissions.") from None
    if not any(found.values()):
        raise DataError(
            f"{root} holds no photographs in folders. Sort them into one folder per class: {root}/CLASS/photo.jpg."
        )
    if learn:
        _check_classes(root, found)
    candidates = [path for paths in found.values() for path in paths]
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the GIL.
        for done, result in enumerate(pool.map(lambda path: _open(root, path), candidates), 1):
            if isinstance(result, Photo):
                photos.append(result)
            else:
                skipped.append(result)
            if progress:
                progress(done, len(candidates))
    kept, contradictions = (tuple(photos), []) if disputed else _without_contradictions(root, photos)
    skipped = sorted([*skipped, *contradictions], key=lambda entry: entry.path)
    if learn:
        _check_usable(found, kept, skipped)
    elif not kept:
        raise DataError(f"{root} holds no photograph that can be used. The first: {skipped[0].reason}")
    return PhotoFolder(root, kept, tuple(skipped))


def split(
    folder: PhotoFolder,
    *,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    label_of: Mapping[str, str] | None = None,
    alike: Iterable[Sequence[Photo]] = (),
) -> Splits:
    """Split every class folder's photographs by their content's hash and ``seed``.

    Args:
        folder: what ``scan`` found.
        seed: another seed, another split.
        validation, test: the fractions to set aside; at least one photograph of each class goes to each side.
        label_of: the label of each class folder; the folder's own name if not given.
        alike: photographs that show the same picture, and must therefore share a side. Those that lie in several
            class folders are only learned from: nobody knows which of their labels to judge by.

    Raises:
        DataError: a class has fewer than three different photographs, or the fractions leave nothing to learn from.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise DataError(
            f"Fractions of {validation} for validation and {test} for testing leave nothing to learn from. "
            "Both must be above 0 and their sum below 1."
        )
    sides: dict[str, list[Photo]] = {"train": [], "validation": [], "test": []}
    copies_in: dict[str, dict[str, list[Photo]]] = {name: defaultdict(list) for name in folder.folders}
    first_of, disputed = _units(alike)
    for photo in folder.photos:
        copies_in[photo.folder][first_of.get(photo.sha256, photo.sha256)].append(photo)
    for name, copies in copies_in.items():
        for sha256 in disputed & copies.keys():
            sides["train"] += copies.pop(sha256)
        count = len(copies)
        if count < MIN_PER_CLASS:
            raise DataError(
                f"{folder.root / name} has {count} different usable photographs; a class needs at least "
                f"{MIN_PER_CLASS}, one each to learn from, to tune on and to test on. Add some or remove the folder."
            )
        tested = min(max(1, round(test * count)), count - 2)
        validated = min(max(1, round(validation * count)), count - 1 - tested)
        for rank, sha256 in enumerate(_drawn(copies, seed)):
            side = "test" if rank < tested else "validation" if rank < tested + validated else "train"
            sides[side] += copies[sha256]
    labels = {name: name for name in folder.folders} if label_of is None else dict(label_of)
    if missing := [name for name in folder.folders if name not in labels]:
        raise DataError(f"No label is given for the folders {', '.join(missing)} of {folder.root}.")
    labels = {name: label for name, label in labels.items() if name in folder.folders}
    train, validate, judge = (tuple(sorted(photos, key=lambda photo: photo.path)) for photos in sides.values())
    return Splits(folder.root.resolve(), seed, labels, train, validate, judge, folder.skipped)


def apply(splits: Splits, folder: PhotoFolder, *, label_of: Mapping[str, str]) -> Splits:
    """A split made earlier, perhaps elsewhere, of photographs that now lie in ``folder``, with other labels.

    Photographs of ``folder`` that the split does not name are not used.

    Raises:
        DataError: photographs of the split are not there, or are other ones now.
    """
    there = {(photo.path, photo.sha256) for photo in folder.photos}
    missing = [photo for photos in splits.sides.values() for photo in photos if (photo.path, photo.sha256) not in there]
    if missing:
        raise DataError(
            f"{len(missing)} photographs of the split are missing in {folder.root}, or have changed; the first is "
            f"{missing[0].path}. Put them back, or split anew: leafport data split {folder.root} --out FILE"
        )
    labels = {name: label for name, label in label_of.items() if name in splits.label_of}
    return replace(splits, root=folder.root.resolve(), label_of=labels, skipped=folder.skipped)


def most_frequent(folder: PhotoFolder, count: int) -> PhotoFolder:
    """Only the ``count`` classes with the most photographs; those with equally many in the order of their names."""
    sizes = Counter(photo.folder for photo in folder.photos)
    kept = sorted(sizes, key=lambda name: (-sizes[name], name))[:count]
    return replace(folder, photos=tuple(photo for photo in folder.photos if photo.folder in kept))


def _units(alike: Iterable[Sequence[Photo]]) -> tuple[dict[str, str], set[str]]:
    """For the photographs of each group, the hash that stands for all; and those hashes whose groups span classes."""
    first_of: dict[str, str] = {}
    disputed = set()
    for group in alike:
        first = min(photo.sha256 for photo in group)
        first_of |= dict.fromkeys((photo.sha256 for photo in group), first)
        if len({photo.folder for photo in group}) > 1:
            disputed.add(first)
    return first_of, disputed


def _drawn(hashes: Iterable[str], seed: int) -> list[str]:
    """Content hashes in an order that looks random, depends on nothing but them and ``seed``, and can be recomputed."""
    return sorted(hashes, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())


def _visible(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _candidates(folder: Path) -> list[Path]:
    """The files of a class folder that claim to be images, sorted by name."""
    return [path for path in _visible(folder) if path.suffix.lower() in images.SUFFIXES and not path.is_dir()]


def _check_classes(root: Path, found: Mapping[Path, list[Path]]) -> None:
    if len(found) < 2:
        only = next(iter(found)).name
        raise DataError(f"{root} has one class folder, {only!r}; telling classes apart takes two or more. Add another.")
    for folder, paths in found.items():
        if not paths:
            raise DataError(f"{folder} holds no photographs. Remove it or add photographs ({_suffixes()}).")
        if not _is_text(folder.name):
            raise DataError(f"{str(folder)!r} has a name that is not UTF-8 text. Rename the folder.")


def _check_usable(folders: Iterable[Path], photos: Iterable[Photo], skipped: list[Skipped]) -> None:
    used = {photo.folder for photo in photos}
    for folder in folders:
        if folder.name not in used:
            first = next(entry for entry in skipped if PurePosixPath(entry.path).parts[0] == folder.name)
            raise DataError(
                f"{folder} holds no photograph that can be used. Add photographs or remove the folder. "
                f"The first: {first.reason}"
            )


def _open(root: Path, path: Path) -> Photo | Skipped:
    relative = path.relative_to(root).as_posix()
    if not _is_text(relative):
        shown = str(path).encode(errors="backslashreplace").decode()
        name = relative.encode(errors="backslashreplace").decode()
        return Skipped(name, f"{shown} has a name that is not UTF-8 text. Rename it.")
    try:
        images.open_rgb(path)
        return Photo(relative, path.parent.name, files.sha256(path))
    except ImageError as problem:
        return Skipped(relative, str(problem))
    except OSError as problem:
        return Skipped(relative, f"{path} cannot be read ({problem.strerror}). Replace or remove it.")


def _without_contradictions(root: Path, photos: Iterable[Photo]) -> tuple[tuple[Photo, ...], list[Skipped]]:
    copies: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        copies[photo.sha256].append(photo)
    kept, skipped = [], []
    for same in copies.values():
        for photo in same:
            others = [other.path for other in same if other.folder != photo.folder]
            if others:
                reason = f"{root / photo.path} is the same photograph as {root / others[0]}. Keep it in one class only."
                skipped.append(Skipped(photo.path, reason))
            else:
                kept.append(photo)
    return tuple(sorted(kept, key=lambda photo: photo.path)), skipped


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # The file system's bytes were no UTF-8, and JSON cannot hold them.
        return False
    return True


def _suffixes() -> str:
    return ", ".join(sorted(images.SUFFIXES))


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _PhotoEntry(_Strict):
    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _SkippedEntry(_Strict):
    path: str
    reason: str


class _SplitsFile(_Strict):
    schema_version: Literal[1]
    root: str
    seed: int
    label_of: dict[str, str] = Field(min_length=2)
    train: tuple[_PhotoEntry, ...] = Field(min_length=1)
    validation: tuple[_PhotoEntry, ...] = Field(min_length=1)
    test: tuple[_PhotoEntry, ...] = Field(min_length=1)
    skipped: tuple[_SkippedEntry, ...]

    @property
    def sides(self) -> tuple[Any, ...]:
        return self.train, self.validation, self.test


def _checked(entry: _PhotoEntry, label_of: Mapping[str, str], where: Path) -> Photo:
    """A photo whose path is exactly ``folder/name``, so that it cannot lead out of the root."""
    parts = entry.path.split("/")
    if len(parts) != 2 or parts[0] not in label_of or not parts[1] or {".", ".."} & set(parts) or "\0" in entry.path:
        raise DataError(f"{where}: {entry.path!r} is not a photograph in a class folder. Do not use this file.")
    return Photo(entry.path, parts[0], entry.sha256)
