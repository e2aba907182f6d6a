"""Draw the demonstration's photographs: a folder of eight species, sorted as users sort their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from leafport import files
from leafport.demo import scene
from leafport.demo.species import SPECIES
from leafport.errors import OutputError, UserError

IMAGES_DIR = "images"
POISONOUS_FILE = "poisonous.txt"
PHOTOGRAPHS_PER_SPECIES = 160
SIZE = 176  # Pixels of the longer side, about: enough for a model of 96 and a crop.
_ORIENTATION_TAG = 0x0112
# How to turn an upright picture into the pixels a camera held that way stores.
_STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class DemoData:
    """Where the drawn photographs are."""

    images: Path  # One folder for each species.
    poisonous: Path  # A text file, one folder's name to a line: what ``train --positive`` takes.
    species: tuple[str, ...]
    photographs: int


def draw(
    out: Path,
    *,
    photographs_per_species: int = PHOTOGRAPHS_PER_SPECIES,
    seed: int = 0,
    size: int = SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> DemoData:
    """Write ``out/images/<Species>/<nnn>.jpg`` and ``out/poisonous.txt``, all or nothing.

    The same seed gives the same bytes (with the same Pillow), and the first photographs of a species are the same
    however many are drawn. ``progress`` is called with (photographs drawn, photographs to draw). Earlier demo data at
    ``out`` are replaced.

    Raises:
        UserError: there is nothing to draw, or ``size`` is not within 32..2048 pixels.
        OutputError: ``out`` cannot be written, or holds something else.
    """
    if photographs_per_species < 1 or seed < 0 or not 32 <= size <= 2048:
        raise UserError(
            f"Cannot draw {photographs_per_species} photographs a species of {size} pixels with the seed {seed}: "
            "ask for at least 1, of 32 to 2048 pixels, with a seed of at least 0."
        )
    _refuse_foreign(out)
    total = len(SPECIES) * photographs_per_species
    with files.staged(out) as staging:
        for species in SPECIES:
            (staging / IMAGES_DIR / species.name).mkdir(parents=True)
        for done in range(total):
            index, kind = divmod(done, len(SPECIES))
            _draw_one(staging / IMAGES_DIR, kind, index, seed, size)
            if progress:
                progress(done + 1, total)
        names = [species.name for species in SPECIES if species.poisonous]
        (staging / POISONOUS_FILE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return DemoData(out / IMAGES_DIR, out / POISONOUS_FILE, tuple(species.name for species in SPECIES), total)


def _draw_one(images: Path, kind: int, index: int, seed: int, size: int) -> None:
    species = SPECIES[kind]
    taken = scene.photograph(species, np.random.default_rng([seed, kind, index]), size)
    stored, exif = taken.image, Image.Exif()
    if taken.orientation != 1:
        stored = stored.transpose(_STORED[taken.orientation])
        exif[_ORIENTATION_TAG] = taken.orientation
    stored.save(images / species.name / f"{index:03}.jpg", quality=taken.jpeg_quality, exif=exif)


def _refuse_foreign(out: Path) -> None:
    """Drawing replaces the whole folder, so it must not hold anything that was not drawn."""
    if not out.exists():
        return
    ours = {IMAGES_DIR, POISONOUS_FILE}
    known = out.is_dir() and {path.name for path in out.iterdir()} <= ours
    images = out / IMAGES_DIR
    if known and images.is_dir():
        known = {path.name for path in images.iterdir()} <= {species.name for species in SPECIES}
    if not known:
        raise OutputError(f"{out} holds other things than demo data. Name a new or an empty folder.")
