"""From a photograph's file to the pixels a classifier sees.

This is the only place where files become pixels: training, evaluation, calibration, verification and benchmarks
all call ``read``, so what a model learned from is what it is asked about.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from leafport.contract import ImageInput
from leafport.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 2**27
MAX_FILE_BYTES = 2**28

_KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read(path: Path, rule: ImageInput, data: bytes | None = None) -> np.ndarray:
    """The pixels of one photograph, as ``rule`` wants them: uint8 [height, width, 3], RGB.

    Args:
        data: what the file holds, where that is in memory; ``path`` then only names it in errors.

    Raises:
        ImageError: the file is missing, not an image, damaged, or larger than 2**27 pixels.
    """
    return fit(open_rgb(path, data), rule)


def open_rgb(path: Path, data: bytes | None = None) -> Image.Image:
    """A photograph upright (EXIF applied), in 8-bit RGB: transparency on white, 16-bit greys scaled, first frame.

    Its ``format`` is the file's ("JPEG"), whatever the file's name says. ``data`` is as for ``read``.

    Raises:
        ImageError: the file is missing, not an image, damaged, or larger than 2**27 pixels.
    """
    try:
        if (path.stat().st_size if data is None else len(data)) > MAX_FILE_BYTES:
            raise ImageError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB. Shrink it or leave it out.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes and odd EXIF blocks; the limits here are our own.
            with Image.open(path if data is None else io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"{path} has {width} x {height} pixels, more than {MAX_PIXELS:,}. Shrink it or leave it out."
                    )
                image.load()
                upright = _to_rgb(ImageOps.exif_transpose(image))
                upright.format = image.format
                return upright
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist. Check the path.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{path} is not an image leafport reads ({', '.join(FORMATS)}). Convert or remove it."
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has more than {MAX_PIXELS:,} pixels. Shrink it or leave it out.") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as problem:
        raise ImageError(f"{path} is damaged ({problem}). Replace or remove it.") from None


def fit(image: Image.Image, rule: ImageInput) -> np.ndarray:
    """An RGB image resized as ``rule`` says: uint8 [height, width, 3]."""
    size = (rule.width, rule.height)
    box = (0, 0, image.width, image.height) if rule.fit == "squash" else crop_box(image.size, size)
    kernel = _KERNELS[rule.kernel]
    if rule.antialias or rule.kernel == "nearest":
        resized = image.resize(size, kernel, box=box)
    else:
        resized = image.transform(size, Image.Transform.EXTENT, box, resample=kernel)
    return np.asarray(resized, dtype=np.uint8)


def crop_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest centred rectangle of ``size`` with the shape of ``target``; sizes are (width, height).

    Returns (left, top, right, bottom) in whole pixels, rounded down, so that every platform can do the same.
    """
    width, height = size
    if width * target[1] >= height * target[0]:
        cropped = (max(1, height * target[0] // target[1]), height)
    else:
        cropped = (width, max(1, width * target[1] // target[0]))
    left, top = (width - cropped[0]) // 2, (height - cropped[1]) // 2
    return left, top, left + cropped[0], top + cropped[1]


def batches(paths: Iterable[Path], rule: ImageInput, batch_size: int = 32) -> Iterator[np.ndarray]:
    """Photographs read one batch at a time: uint8 [<= batch_size, height, width, 3].

    Raises:
        ImageError: at the first photograph that cannot be used.
    """
    batch: list[np.ndarray] = []
    for path in paths:
        batch.append(read(path, rule))
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray((grey / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


ImageFile.LOAD_TRUNCATED_IMAGES = False  # A half photograph is not evidence.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
