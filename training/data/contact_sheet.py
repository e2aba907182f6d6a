"""Many photographs on one page, pixel for pixel, with what is to be said of each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN, _GAP, _LINE, _COLUMN = 16, 8, 17, 190
_INK, _GREY, _LETTERS = "#222222", "#777777", 28


@dataclass(frozen=True)
class Tile:
    """One photograph, uint8 [H, W, 3], and the lines below it."""

    pixels: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Photographs side by side; to their left a title and what it means, where there is one."""

    tiles: Sequence[Tile]
    title: str = ""
    text: str = ""


def draw(rows: Sequence[Row]) -> Image.Image:
    """The page. All photographs must have one size."""
    height, width = rows[0].tiles[0].pixels.shape[:2]
    left = _MARGIN + (_COLUMN if any(row.title for row in rows) else 0)
    small, large = ImageFont.load_default(12), ImageFont.load_default(16)
    captions = [_LINE * max(len(tile.caption.splitlines()) for tile in row.tiles) for row in rows]
    across = left + max(len(row.tiles) for row in rows) * (width + _GAP) - _GAP + _MARGIN
    down = sum(height + caption + _GAP for caption in captions) - _GAP + 2 * _MARGIN
    page = Image.new("RGB", (across, down), "white")
    pen = ImageDraw.Draw(page)
    top = _MARGIN
    for row, caption in zip(rows, captions, strict=True):
        pen.text((_MARGIN, top), _shortened(row.title, large, _COLUMN - _GAP), _INK, large)
        pen.multiline_text((_MARGIN, top + 24), textwrap.fill(row.text, _LETTERS), _GREY, small, spacing=3)
        for index, tile in enumerate(row.tiles):
            x = left + index * (width + _GAP)
            page.paste(Image.fromarray(tile.pixels), (x, top))
            for number, line in enumerate(tile.caption.splitlines()):
                place = (x, top + height + 2 + number * _LINE)
                pen.text(place, _shortened(line, small, width), _GREY, small)
        top += height + caption + _GAP
    return page


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """As much of a text as has room: its end, since names differ there."""
    if font.getlength(text) <= width:
        return text
    return next(("…" + text[cut:] for cut in range(1, len(text)) if font.getlength("…" + text[cut:]) <= width), "")
