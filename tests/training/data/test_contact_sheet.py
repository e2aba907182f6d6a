from __future__ import annotations

import numpy as np

from leafport.training.data.contact_sheet import Row, Tile, draw


def test_photographs_are_on_the_page_pixel_for_pixel_without_touching() -> None:
    random = np.random.default_rng(0)
    tiles = [Tile(random.integers(0, 200, (20, 30, 3), dtype=np.uint8), caption) for caption in ("one", "two", "")]
    page = np.asarray(draw([Row(tiles[:2]), Row(tiles[2:])]))
    found = [
        (row, column)
        for row in range(page.shape[0] - 19)
        for column in range(page.shape[1] - 29)
        if any(np.array_equal(page[row : row + 20, column : column + 30], tile.pixels) for tile in tiles)
    ]
    (first, left), (second, right), (third, below) = found
    assert first == second
    assert right >= left + 30
    assert third > first + 20
    assert below == left


def test_titles_stand_to_the_left() -> None:
    tile = Tile(np.zeros((40, 30, 3), np.uint8))
    plain, titled = draw([Row([tile])]), draw([Row([tile], "rotation = 30", "degrees it is turned")])
    assert titled.width > plain.width
    assert (np.asarray(titled)[:, : titled.width - plain.width] != 255).any()


def test_a_line_too_long_for_its_photograph_keeps_its_end() -> None:
    black = np.zeros((20, 60, 3), np.uint8)
    short, long = (
        np.asarray(draw([Row([Tile(black, caption)])])) for caption in ("0123", "a folder/with a very long name/0123")
    )
    assert short.shape == long.shape
    assert (long[37:, 16 + 60 :] == 255).all()
    assert (long[37:] != short[37:]).any()
