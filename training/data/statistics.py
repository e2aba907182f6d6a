"""What a folder of photographs holds: how many of each class, how large, in which formats, how bright."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leafport import images
from leafport.training.data.splits import PhotoFolder

FEW = 30
IMBALANCED = 10.0
_GREEN = "#4c7d5b"


@dataclass(frozen=True)
class PhotoFacts:
    """One photograph: pixels as they are shown (upright), the file's format, and its mean luma, 0 to 255."""

    width: int
    height: int
    format: str
    brightness: float


@dataclass(frozen=True)
class Statistics:
    """The figures of a folder. ``facts`` are in the order of ``folder.photos``."""

    folder: PhotoFolder
    facts: tuple[PhotoFacts, ...]
    label_of: Mapping[str, str]

    @property
    def classes(self) -> dict[str, int]:
        """Photographs per class folder, most first."""
        return dict(Counter(photo.folder for photo in self.folder.photos).most_common())

    @property
    def labels(self) -> dict[str, int]:
        """Photographs per label; the same as ``classes`` where each folder is a label of its own."""
        return dict(Counter(self.label_of[photo.folder] for photo in self.folder.photos).most_common())

    @property
    def warnings(self) -> list[str]:
        """What a training on these photographs will suffer from, in sentences."""
        found = []
        kinds = {"classes": self.classes} | ({"labels": self.labels} if self.labels != self.classes else {})
        for what, counts in kinds.items():
            (most, largest), *_, (least, smallest) = counts.items()
            if largest >= IMBALANCED * smallest:
                found.append(
                    f"The {what} are imbalanced: {most} has {largest} photographs, {least} {smallest}. "
                    "A classifier will favour the large ones; --balance weighs them evenly."
                )
        if tiny := [name for name, count in self.classes.items() if count < FEW]:
            found.append(
                f"{len(tiny)} classes have fewer than {FEW} photographs ({', '.join(tiny[-5:])}"
                f"{', …' if len(tiny) > 5 else ''}): neither learning nor the figures about them can be trusted."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        sides = np.array([(fact.width, fact.height) for fact in self.facts])
        return {
            "root": str(self.folder.root),
            "photographs": len(self.facts),
            "classes": self.classes,
            "labels": self.labels,
            "formats": dict(Counter(fact.format for fact in self.facts).most_common()),
            "width": _spread(sides[:, 0]),
            "height": _spread(sides[:, 1]),
            "brightness": _spread(np.array([fact.brightness for fact in self.facts])),
            "warnings": self.warnings,
            "skipped": [{"path": entry.path, "reason": entry.reason} for entry in self.folder.skipped],
        }


def measure(
    folder: PhotoFolder,
    label_of: Mapping[str, str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Open every usable photograph of a folder and take its figures.

    Raises:
        ImageError: a photograph has changed or gone since it was scanned.
    """
    facts = []
    paths = [folder.root / photo.path for photo in folder.photos]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for done, fact in enumerate(pool.map(_measure, paths), 1):
            facts.append(fact)
            if progress:
                progress(done, len(paths))
    return Statistics(folder, tuple(facts), label_of or {name: name for name in folder.folders})


def draw(path: Path, statistics: Statistics) -> None:
    """Write a PNG: photographs per class, the spread of their brightness, and of their sizes."""
    from matplotlib.figure import Figure

    classes = statistics.classes
    rows = len(classes)
    figure = Figure(figsize=(11, max(4.5, 0.19 * rows + 1)), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2))
    bars = figure.add_subplot(grid[:, 0])
    bars.barh(range(rows), list(classes.values()), color=_GREEN)
    bars.set_yticks(range(rows), list(classes), fontsize=9 if rows < 30 else 7)
    bars.invert_yaxis()
    bars.margins(y=0.01)
    bars.set_xlabel("photographs")
    bars.set_title(f"{len(statistics.facts):,} photographs, {rows} classes", loc="left")
    light = figure.add_subplot(grid[0, 1])
    light.hist([fact.brightness for fact in statistics.facts], bins=32, range=(0, 255), color=_GREEN)
    light.set_xlabel("mean brightness (luma, 0 to 255)")
    sizes = figure.add_subplot(grid[1, 1])
    sizes.scatter(
        [fact.width for fact in statistics.facts],
        [fact.height for fact in statistics.facts],
        s=6,
        alpha=0.4,
        color=_GREEN,
    )
    sizes.set_xlabel("width (pixels)")
    sizes.set_ylabel("height (pixels)")
    figure.savefig(path, dpi=110, format="png")


def _measure(path: Path) -> PhotoFacts:
    image = images.open_rgb(path)
    luma = np.asarray(image.convert("L"))
    return PhotoFacts(image.width, image.height, image.format or "", float(luma.mean()))


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, (5, 50, 95))
    return {
        "min": float(values.min()),
        "p5": float(low),
        "median": float(middle),
        "p95": float(high),
        "max": float(values.max()),
    }
