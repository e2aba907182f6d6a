from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from leafport import files
from leafport.errors import OutputError, UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    files.write_bytes(target, b"old")
    with pytest.raises(RuntimeError), files.staged(target) as staging:
        staging.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_an_older_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "package"
    for content in ("one", "two"):
        with files.staged(target) as staging:
            staging.mkdir()
            (staging / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="takes a file system in which nothing can be created")
def test_a_place_where_nothing_can_be_created() -> None:
    with pytest.raises(OutputError, match="write elsewhere"):
        files.write_bytes(Path("/proc/model.bin"), b"new")


def test_a_missing_file_is_not_blamed_on_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.staged(tmp_path / "out" / "model.bin"):
        (tmp_path / "photograph.jpg").read_bytes()


def test_hashes_tell_a_folders_files_and_names_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, name in ((one, "a"), (two, "b")):
        folder.mkdir()
        (folder / name).write_text("same")
    assert files.sha256(one) != files.sha256(two)
    (two / "b").rename(two / "a")
    assert files.sha256(one) == files.sha256(two)
    assert files.size_bytes(one) == 4


def test_zipped_bytes_is_what_a_zip_takes(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "weights").write_bytes(b"0" * 10_000)
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.write(folder / "weights", "weights")
    # Written to a stream that cannot seek, as a download is: each file is followed by a descriptor of its sizes.
    assert abs(files.zipped_bytes(folder) - archive.stat().st_size) <= 24


@pytest.mark.parametrize("relative", ["../outside", "/etc/passwd", "a/../../outside"])
def test_paths_from_elsewhere_cannot_escape(tmp_path: Path, relative: str) -> None:
    with pytest.raises(UserError, match="points outside"):
        files.inside(tmp_path / "exports", relative)


def test_links_cannot_escape(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="points outside"):
        files.inside(tmp_path / "exports", "link/secret")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="A file stands where a folder is needed"):
        files.write_text(tmp_path / "file" / "model.json", "{}")


def test_a_full_disk_is_named() -> None:
    with (
        pytest.raises(OutputError, match="disk is full"),
        files.writable(Path("/dev/full")),
        Path("/dev/full").open("wb", 0) as full,
    ):
        full.write(b"x")


def test_json_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read as JSON"):
        files.read_json(path)
