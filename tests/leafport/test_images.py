from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport import images
from leafport.contract import ImageInput
from leafport.errors import ImageError

RULE = ImageInput(height=8, width=8)


def picture(mode: str = "RGB", size: tuple[int, int] = (16, 8)) -> Image.Image:
    """Left half bright, right half dark, in any mode."""
    grey = Image.new("L", size, 200)
    grey.paste(40, (size[0] // 2, 0, size[0], size[1]))
    return grey.convert("RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("L", "a.png"),
        ("CMYK", "a.jpg"),
        ("P", "a.png"),
        ("1", "a.png"),
        ("RGBA", "a.png"),
        ("RGB", "a.webp"),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str, name: str) -> None:
    picture(mode).save(tmp_path / name)
    pixels = images.read(tmp_path / name, RULE)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert pixels[:, :3].mean() > 150 > 100 > pixels[:, 5:].mean()


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    pixels = images.read(tmp_path / "deep.png", RULE)
    np.testing.assert_allclose(pixels[..., 0], ramp / 257, atol=0.51)


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (images.read(tmp_path / "clear.png", RULE) == 255).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise to see it upright.
    picture().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = images.open_rgb(tmp_path / "turned.jpg")
    assert upright.size == (8, 16)
    assert np.asarray(upright)[:4].mean() > 150 > np.asarray(upright)[-4:].mean()


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (images.read(tmp_path / "moving.gif", RULE)[0, 0] == (255, 0, 0)).all()


def test_text_called_jpg(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a photograph")
    with pytest.raises(ImageError, match=r"notes\.jpg is not an image leafport reads"):
        images.read(tmp_path / "notes.jpg", RULE)


def test_half_a_photograph(tmp_path: Path) -> None:
    picture(size=(256, 256)).save(tmp_path / "half.jpg")
    whole = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"half\.jpg is damaged"):
        images.read(tmp_path / "half.jpg", RULE)


def test_a_missing_photograph(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        images.read(tmp_path / "gone.jpg", RULE)


def png_bomb(path: Path, side: int) -> None:
    """A PNG of ``side`` x ``side`` black pixels in a few hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes((1, 0, 0, 0, 0))
    compressor = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def test_a_pixel_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    png_bomb(tmp_path / "bomb.png", 30_000)
    with pytest.raises(ImageError, match=r"bomb\.png has .*pixels"):
        images.read(tmp_path / "bomb.png", RULE)


def test_bytes_in_memory_give_the_pixels_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "turned.jpg", exif=exif, quality=60)
    data, nowhere = (tmp_path / "turned.jpg").read_bytes(), Path("archive/turned.jpg")
    assert np.array_equal(images.read(nowhere, RULE, data), images.read(tmp_path / "turned.jpg", RULE))
    with pytest.raises(ImageError, match=r"archive/turned\.jpg is damaged"):
        images.read(nowhere, RULE, data[:-50])
    with pytest.raises(ImageError, match=r"archive/turned\.jpg is not an image"):
        images.read(nowhere, RULE, b"")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match="is larger than"):
        images.read(nowhere, RULE, data)


def test_crop_takes_the_centre_and_squash_takes_all() -> None:
    image = picture(size=(32, 8))
    cropped = images.fit(image, ImageInput(height=8, width=8, fit="crop", kernel="nearest"))
    squashed = images.fit(image, ImageInput(height=8, width=8, kernel="nearest"))
    np.testing.assert_array_equal(cropped, np.asarray(image)[:, 12:20])
    np.testing.assert_array_equal(squashed, np.asarray(image)[:, 2::4])


@pytest.mark.parametrize("target", [(8, 8), (20, 10), (7, 13)])
@pytest.mark.parametrize("size", [(8, 8), (1000, 3), (3, 1000), (641, 480)])
def test_a_crop_box_is_inside_and_centred(size: tuple[int, int], target: tuple[int, int]) -> None:
    left, top, right, bottom = images.crop_box(size, target)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert abs(left - (size[0] - right)) <= 1
    assert abs(top - (size[1] - bottom)) <= 1
    assert right - left == size[0] or bottom - top == size[1]


def test_without_antialias_only_the_nearest_pixels_count() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255  # One bright column in eight: an area average sees it, a two-pixel sample mostly does not.
    image = Image.fromarray(stripes)
    smooth = images.fit(image, ImageInput(height=8, width=8))
    sampled = images.fit(image, ImageInput(height=8, width=8, antialias=False))
    assert smooth.mean() > 20
    assert sampled.mean() == 0
