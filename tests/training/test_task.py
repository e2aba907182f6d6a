from __future__ import annotations

from pathlib import Path

import pytest

from leafport.errors import DataError
from leafport.training.task import default_name, define

FOLDERS = ("clover", "daisy", "foxglove", "nightshade")


def test_a_class_task_has_the_folders_as_labels(poisonous: Path) -> None:
    assert define("class", FOLDERS, None).positive_labels == ()
    task = define("class", FOLDERS, poisonous)
    assert tuple(task.label_of.values()) == FOLDERS
    assert task.positive_labels == ("foxglove", "nightshade")


def test_a_binary_task_has_the_negative_label_first(poisonous: Path) -> None:
    task = define("binary", FOLDERS, poisonous)
    assert tuple(dict.fromkeys(task.label_of.values())) == ("not_poisonous", "poisonous")
    assert task.label_of["nightshade"] == "poisonous"
    named = define("binary", FOLDERS, poisonous, negative_name="safe", positive_name="deadly")
    assert tuple(dict.fromkeys(named.label_of.values())) == ("safe", "deadly")


def test_positive_files_that_make_no_sense(tmp_path: Path, poisonous: Path) -> None:
    file = tmp_path / "names.txt"
    with pytest.raises(DataError, match="needs --positive FILE"):
        define("binary", FOLDERS, None)
    with pytest.raises(DataError, match=r"names\.txt cannot be read"):
        define("binary", FOLDERS, file)
    file.write_text("foxglove\nhemlock\nyew\n")
    with pytest.raises(DataError, match="'hemlock', 'yew'"):
        define("binary", FOLDERS, file)
    file.write_text("# nothing\n")
    with pytest.raises(DataError, match="none of the class folders"):
        define("class", FOLDERS, file)
    file.write_text("\n".join(FOLDERS))
    with pytest.raises(DataError, match="all of the class folders"):
        define("class", FOLDERS, file)
    with pytest.raises(DataError, match="Both labels"):
        define("binary", FOLDERS, poisonous, negative_name="poisonous")


def test_names_come_from_the_folder(tmp_path: Path) -> None:
    assert default_name(tmp_path / "My Plants (2024)") == "my-plants-2024"
    assert default_name(tmp_path / "herbs" / "images") == "herbs"
    assert default_name(Path("/植物")) == "classifier"
