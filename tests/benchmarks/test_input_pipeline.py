from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_all_take_turns_on_the_same_photographs(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "leafport.benchmarks.input_pipeline", str(photo_folder), "--json", str(out)]
    small = ["--image-size", "32", "--batch-size", "8", "--batches", "2", "--rounds", "2"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    rates = {name: rate["rounds"] for name, rate in found["images_per_second"].items()}
    assert len(rates) == 7
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in rates.values())
    legacy = {name: sum(rounds) / 2 for name, rounds in rates.items() if name.startswith("legacy")}
    assert len(legacy) == 3
    assert found["fastest_legacy"] == max(legacy, key=legacy.__getitem__)
    times = [a / b for a, b in zip(rates["leafport"], rates[found["fastest_legacy"]], strict=True)]
    assert found["times_legacy"] == pytest.approx(sum(times) / 2, abs=0.01)
    assert len(found["training_waits"]["rounds"]) == 2
    assert all(0 <= share < 1 for share in found["training_waits"]["rounds"])
    assert found["photographs"] == 90
    assert found["fastest_legacy"] in done.stdout
    assert "Found " not in done.stdout


def test_too_few_photographs_for_a_turn(photo_folder: Path) -> None:
    command = [sys.executable, "-m", "leafport.benchmarks.input_pipeline", str(photo_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has 90 photographs, a turn takes 960. Give a smaller --batches." in done.stderr
