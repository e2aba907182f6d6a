from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from leafport import images
from leafport.demo import plants


def leafport(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leafport", "data", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    plants.draw(folder, photographs_per_species=8, seed=2)
    return folder / "images"


def test_stats(drawn: Path, tmp_path: Path) -> None:
    positive = tmp_path / "poisonous.txt"
    one = sorted(path.name for path in drawn.iterdir())[0]
    positive.write_text(one)
    done = leafport(
        "stats", drawn, "--positive", positive, "--plot", tmp_path / "stats.png", "--json", tmp_path / "stats.json"
    )
    assert done.returncode == 0, done.stderr
    assert "64 photographs in 8 classes; 64 JPEG" in done.stdout
    assert "56 not_poisonous, 8 poisonous" in done.stdout
    assert "fewer than 30 photographs" in done.stdout
    value = json.loads((tmp_path / "stats.json").read_text())
    assert value["labels"] == {"not_poisonous": 56, "poisonous": 8}
    assert Image.open(tmp_path / "stats.png").format == "PNG"


def test_split_and_check(drawn: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(drawn, tmp_path / "photos")
    one = sorted(path.name for path in folder.iterdir())[0]
    for index in range(8):
        images.open_rgb(folder / one / f"{index:03}.jpg").save(folder / one / f"again{index}.jpg", quality=50)
    out = tmp_path / "splits.json"
    done = leafport("split", folder, "--out", out, "--top", "3", "--validation", "0.25", "--test", "0.25")
    assert done.returncode == 0, done.stderr
    assert "3 classes" in done.stdout
    assert "16 photographs look like others, in 8 groups" in done.stdout
    assert f"leafport train {folder} --splits {out}" in done.stdout
    first = out.read_bytes()
    assert "--overwrite" in leafport("split", folder, "--out", out).stderr
    assert out.read_bytes() == first

    done = leafport("check", folder, "--splits", out, "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stdout
    assert "Pictures that are there several times in one class: 8" in done.stdout
    assert "where they make figures look better: 0" in done.stdout
    assert "Labels were not judged" in done.stdout

    careless = ("--by-content", "--validation", "0.25", "--test", "0.25", "--overwrite")
    leafport("split", folder, "--out", out, *careless)
    done = leafport("check", folder, "--splits", out, "--json", tmp_path / "check.json")
    assert done.returncode == 1
    assert "(train, " in done.stdout or ", train)" in done.stdout
    assert len(json.loads((tmp_path / "check.json").read_text())["alike"]) == 8


def test_the_same_photograph_in_two_classes_fails_the_check(drawn: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(drawn, tmp_path / "photos")
    one, other = sorted(path.name for path in folder.iterdir())[:2]
    shutil.copy(folder / one / "000.jpg", folder / other / "copy.jpg")
    done = leafport("check", folder)
    assert done.returncode == 1
    assert "Pictures in several classes, to be kept in one only: 1" in done.stdout
    assert f"the same bytes: {one}/000.jpg, {other}/copy.jpg" in done.stdout


def test_labels_are_not_judged_by_a_network_that_has_learned_nothing(drawn: Path) -> None:
    done = leafport("check", drawn, "--weights", "none")
    assert done.returncode == 2
    assert "--weights" in done.stderr


@pytest.mark.plants
def test_doubtful_labels_are_found_by_a_pretrained_network(shared: Path, tmp_path: Path) -> None:
    """Twelve photographs of each of five species, one of which is put into another's folder."""
    names = ["Dandellion", "Cattail", "Mullein", "Fireweed", "Chicory"]
    for name in names:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for path in sorted((shared / "plants" / "images" / name).iterdir())[:12]:
            shutil.copy(path, tmp_path / "photos" / name)
    stray = next((tmp_path / "photos" / "Cattail").iterdir())
    stray.rename(tmp_path / "photos" / "Fireweed" / f"stray{stray.suffix}")
    weights = shared / "weights" / "mobilenet_1_0_224_tf_no_top.weights.h5"
    done = leafport("check", tmp_path / "photos", "--weights", weights, "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stderr
    doubts = json.loads((tmp_path / "check.json").read_text())["suspicions"]
    assert f"Fireweed/stray{stray.suffix}" in [doubt["path"] for doubt in doubts[:3]]


def test_preview(drawn: Path, tmp_path: Path) -> None:
    one, other = sorted(drawn.glob("*/*.jpg"))[:2]
    out = tmp_path / "preview.png"
    done = leafport("preview", one, other, "--out", out, "--augment", "mixup=0.2", "--image-size", "64", "--draws", "2")
    assert done.returncode == 0, done.stderr
    assert Image.open(out).width < 500
    assert f"{out}: " in done.stdout
    out.unlink()
    done = leafport("preview", one, "--out", out, "--augment", "mixup=20")
    assert done.returncode == 2
    assert "mixup is 20; it must lie between 0 and 10" in done.stderr
    assert not out.exists()


def test_filter(drawn: Path, tmp_path: Path) -> None:
    import keras

    weights, names, out = tmp_path / "top.weights.h5", tmp_path / "names.txt", tmp_path / "out"
    keras.applications.MobileNetV2(weights=None).save_weights(weights)
    names.write_text("\n".join(f"thing {index}" for index in range(1000)))
    given = (drawn, "--weights", weights, "--imagenet-labels", names)
    done = leafport("filter", *given, "--out", out, "--keep", "thing ?", "--keep", "thing 99")
    assert done.returncode == 0, done.stderr
    assert "Looking for: thing 0, thing 1" in done.stdout
    value = json.loads((out / "filter.json").read_text())
    assert len(value["classes"]) == 11
    kept = [entry for entry in value["photographs"] if entry["kept"]]
    assert len(list((out / "kept").glob("*/*.jpg"))) == len(kept)
    assert len(list((out / "dropped").glob("*/*.jpg"))) == 64 - len(kept)
    assert f"{len(kept)} photographs kept, {64 - len(kept)} dropped" in done.stdout
    assert f"leafport train {out / 'kept'}" in done.stdout
    done = leafport("filter", *given, "--out", tmp_path / "other", "--keep", "thnig 3")
    assert done.returncode == 2
    assert "called 'thnig 3'. There are: thing 3" in done.stderr


def test_shards(drawn: Path, tmp_path: Path) -> None:
    leafport("split", drawn, "--out", tmp_path / "splits.json")
    given = ("shards", drawn, "--splits", tmp_path / "splits.json", "--out", tmp_path / "out", "--per-shard", "20")
    done = leafport(*given)
    assert done.returncode == 0, done.stderr
    assert ["train", "48", "3"] in [line.split()[:3] for line in done.stdout.splitlines()]
    names = [path.name for path in sorted((tmp_path / "out").glob("train-*"))]
    assert names == [f"train-{number:05}-of-00003.tfrecord" for number in range(3)]
    again = leafport("unpack", tmp_path / "out", "--out", tmp_path / "again", "--splits", tmp_path / "again.json")
    assert again.returncode == 0, again.stderr
    assert f"train {tmp_path / 'again'} --splits" in again.stdout
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in drawn.iterdir()}
    done = leafport(*given)
    assert done.returncode == 2
    assert "exists. Give another --out" in done.stderr
