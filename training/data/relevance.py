"""Photographs that show something else: what a network that knows ImageNet's thousand classes sees in none of them.

Photographs collected by name hold portraits, maps and book covers among the plants. Few of a data set's own classes are
ImageNet's, but what it shows looks like some of them: the probabilities of those are added up, and photographs whose
sum is small are set aside. Nothing is deleted, and nothing changes in the folder they come from.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from leafport import files, images
from leafport.contract import ImageInput
from leafport.errors import ImageError, ModelError, OutputError, UserError
from leafport.training import backbones
from leafport.training.data import contact_sheet, pipeline
from leafport.training.data.contact_sheet import Row, Tile
from leafport.training.data.splits import Photo, PhotoFolder

if TYPE_CHECKING:
    import keras

CLASSES = 1000
KEPT, DROPPED, REPORT_FILE = "kept", "dropped", "filter.json"
MAX_NAMES_BYTES = 2**20
_THUMBNAIL, _ACROSS, _DOWN = 144, 8, 12


@dataclass(frozen=True)
class Judgement:
    """What the network sees in a photograph: ``probability`` of what is looked for, and what it takes it for."""

    photo: Photo
    probability: float
    guess: str
    guess_probability: float


def network(name: str, weights: str) -> keras.Model:
    """A network with its classification layer: float32 [N, size, size, 3], RGB 0..255, to float32 [N, 1000].

    Args:
        name: a backbone.
        weights: ``imagenet`` to download them, or a file.

    Raises:
        ModelError: no such network, or weights that are missing, cannot be downloaded, or are another network's.
    """
    import keras

    row = backbones.find(name)
    if not isinstance(row.builder, str):
        raise ModelError(f"{name} has no layer that knows ImageNet's classes. Take another, such as mobilenetv2.")
    build = getattr(keras.applications, row.builder)
    if weights == backbones.IMAGENET:
        try:
            whole = build(weights="imagenet")
        except Exception as problem:  # Keras raises a bare Exception when it cannot download.
            raise ModelError(
                f"The ImageNet weights of {name} cannot be downloaded ({problem}). Give a file with --weights FILE."
            ) from problem
    else:
        whole = build(weights=None)
        _load(whole, Path(weights), f"keras.applications.{row.builder}(include_top=True)")
    # Keras keeps with each network the preprocessing that its published weights want.
    prepare = sys.modules[build.__module__].preprocess_input
    image = keras.Input(whole.input_shape[1:], name="image")
    return keras.Model(image, whole(prepare(image)), name=name)


def class_names(path: Path | None = None) -> tuple[str, ...]:
    """The names of ImageNet's classes, in the order of a network's outputs; synonyms with commas between.

    Args:
        path: a text file with one line for each class, or Keras's imagenet_class_index.json; None to download that.

    Raises:
        UserError: the file is missing or holds something else, or cannot be downloaded.
    """
    if path is None:
        import keras

        try:
            found = keras.applications.imagenet_utils.decode_predictions(np.eye(CLASSES), top=1)
        except Exception as problem:  # As above.
            raise UserError(
                f"The names of ImageNet's classes cannot be downloaded ({problem}). Give a text file that has them, "
                "one a line in the networks' order, with --imagenet-labels FILE."
            ) from problem
        return tuple(_readable(name) for [(_, name, _)] in found)
    try:
        if path.stat().st_size > MAX_NAMES_BYTES:
            raise UserError(f"{path} is larger than a list of {CLASSES} names can be. Give another file.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Check the path.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} cannot be read as a list of names ({problem}). Give another file.") from None
    lines = text.splitlines()
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError, AttributeError):
        lines = [str(json.loads(text)[str(index)][1]) for index in range(CLASSES)]
    names = tuple(name for name in map(_readable, lines) if name)
    if len(names) != CLASSES:
        raise UserError(
            f"{path} has {len(names):,} names, not the {CLASSES} of ImageNet's classes. "
            "Give a text file with one line for each, in the networks' order."
        )
    return names


def find(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Which of ImageNet's classes are meant: names as they are, or with * and ?; any synonym will do.

    Raises:
        UserError: nothing is called so.
    """
    called = [{name.casefold(), *(part.strip().casefold() for part in name.split(","))} for name in names]
    found: set[int] = set()
    for pattern in wanted:
        plain = _readable(pattern).casefold()
        matches = {
            index for index, synonyms in enumerate(called) if any(fnmatch.fnmatchcase(s, plain) for s in synonyms)
        }
        if not matches:
            close = get_close_matches(plain, {synonym for synonyms in called for synonym in synonyms}, 3)
            hint = f"There are: {', '.join(close)}." if close else 'Patterns such as "*flower*" find more.'
            raise UserError(f"None of ImageNet's classes is called {pattern!r}. {hint}")
        found |= matches
    return sorted(found)


def judge(
    folder: PhotoFolder,
    model: keras.Model,
    names: Sequence[str],
    chosen: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Judgement]:
    """Ask a network (``network``) about every photograph of a folder, in their order.

    Args:
        names: what its outputs are called.
        chosen: the outputs whose probabilities are added up.

    Raises:
        ImageError: a photograph has changed or gone since it was scanned.
    """
    _, height, width, _ = model.input_shape
    paths = [folder.root / photo.path for photo in folder.photos]
    answers = pipeline.infer(model, paths, ImageInput(height=height, width=width), progress=progress)
    guesses = answers.argmax(axis=1)
    return [
        Judgement(photo, min(1.0, float(answer[list(chosen)].sum())), names[guess], float(answer[guess]))
        for photo, answer, guess in zip(folder.photos, answers, guesses, strict=True)
    ]


def write(
    out: Path, folder: PhotoFolder, judgements: Sequence[Judgement], threshold: float, how: dict[str, Any]
) -> None:
    """Write OUT/kept and OUT/dropped, each with the class folders, filter.json, and pages of thumbnails of the dropped.

    The files are hard links, which take no room, or copies where a file system has no links. What was dropped wrongly
    can so be moved back, and the folder they come from stays as it was.

    Args:
        threshold: photographs with a smaller probability are dropped.
        how: what else filter.json should say of where the judgements come from.

    Raises:
        OutputError: ``out`` exists, lies inside the photographs' folder, or cannot be written.
        ImageError: a photograph has changed or gone since it was scanned.
    """
    if out.resolve().is_relative_to(folder.root.resolve()):
        raise OutputError(f"{out} lies inside {folder.root}, where it would be taken for a class. Write elsewhere.")
    if out.exists():
        raise OutputError(f"{out} exists. Give another --out, or remove it.")
    dropped = sorted((j for j in judgements if j.probability < threshold), key=lambda j: -j.probability)
    with files.staged(out) as staging:
        for side in (KEPT, DROPPED):
            (staging / side).mkdir(parents=True)
        for one in judgements:
            target = staging / (DROPPED if one.probability < threshold else KEPT) / one.photo.path
            target.parent.mkdir(exist_ok=True)
            _place(folder.root / one.photo.path, target)
        for number, page in enumerate(pages(folder.root, dropped), 1):
            page.save(staging / f"{DROPPED}-{number:03}.png")
        entries = [
            {
                **asdict(one.photo),
                "kept": one.probability >= threshold,
                "probability": round(one.probability, 6),
                "guess": one.guess,
                "guess_probability": round(one.guess_probability, 6),
            }
            for one in judgements
        ]
        head = {"schema_version": 1, "root": str(folder.root), "threshold": threshold, **how}
        skipped = [asdict(entry) for entry in folder.skipped]
        files.write_json(staging / REPORT_FILE, {**head, "photographs": entries, "skipped": skipped})


def pages(root: Path, judgements: Sequence[Judgement]) -> Iterator[Image.Image]:
    """Contact sheets of photographs in the order given, each with its probability and what it was taken for."""
    for start in range(0, len(judgements), _ACROSS * _DOWN):
        page = judgements[start : start + _ACROSS * _DOWN]
        tiles = [Tile(_thumbnail(root / one.photo.path), _caption(one)) for one in page]
        yield contact_sheet.draw([Row(tiles[row : row + _ACROSS]) for row in range(0, len(tiles), _ACROSS)])


def _caption(one: Judgement) -> str:
    return f"{one.probability:.1%}  {one.guess.split(',')[0]}\n{one.photo.path}"


def _thumbnail(path: Path) -> np.ndarray:
    image = ImageOps.pad(images.open_rgb(path), (_THUMBNAIL, _THUMBNAIL), color="#eeeeee")
    return np.asarray(image)


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise ImageError(f"{source} does not exist any more. Filter again.") from None
    except OSError:  # Another file system, one without links, or a file that may be read but not linked to.
        shutil.copy2(source, target)


def _readable(name: str) -> str:
    """``n01440764 tench, Tinca tinca`` and ``great_white_shark`` as people write them."""
    return re.sub(r"^n\d{8}\s+", "", name.strip()).replace("_", " ")


def _load(whole: keras.Model, path: Path, origin: str) -> None:
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}. Give {backbones.IMAGENET}, or the path of a file.")
    if not path.name.endswith(backbones.SUFFIXES):
        raise ModelError(f"{path} is not a weights file: its name must end in {', '.join(backbones.SUFFIXES)}.")
    wanted, found = sum(weight.shape.num_elements() for weight in whole.weights), backbones.stored_values(path)
    fault = f"it holds {found:,} values, not {wanted:,}" if found != wanted else None
    if fault is None:
        try:
            whole.load_weights(path)
        except Exception as problem:  # ValueError, KeyError, OSError: whatever does not fit.
            fault = str(problem).splitlines()[0]
    if fault:
        raise ModelError(
            f"{path} does not hold the weights of {origin} ({fault}). Give such a file, or another --backbone."
        )
