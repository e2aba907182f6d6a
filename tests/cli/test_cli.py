from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leafport import cli
from leafport.cli import VERBS
from leafport.export import manifest


def leafport(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "leafport", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from leafport import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'coremltools', 'pydantic', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_tensorflow(verb: str) -> None:
    program = (
        "import sys\n"
        "from leafport import cli\n"
        f"try:\n    cli.main([{verb!r}, '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "sys.exit('imported tensorflow' if 'tensorflow' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--debug" in done.stdout
    assert f"Usage: leafport {verb}" in done.stdout


def test_an_unknown_verb_names_the_known_ones() -> None:
    done = leafport("exprot")
    assert done.returncode == 2
    assert "'exprot'" in done.stderr
    assert "export" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nowhere", "--out", "out"], "nowhere is not a classifier"),
        (["verify", "nowhere"], "holds no manifest.json"),
        (["bench", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["bench", ".", "--out", "out"], "holds no manifest.json"),
        (["predict", "nowhere", "photo.jpg"], "nowhere does not exist"),
        (["inspect", "nowhere.tflite"], "nowhere.tflite does not exist"),
        (["inspect", "."], "no model file that leafport can open: their names end in .pb, -savedmodel, .tflite"),
        (["evaluate", "nowhere", "--data", "photographs"], "nowhere is not a classifier"),
        (["train", "nowhere", "--out", "out"], "nowhere is not a folder"),
    ],
)
def test_mistakes_cost_two_and_a_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leafport", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in leafport("verify", "nowhere", "--debug").stderr


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import click

    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(SystemExit) as end:
        cli.run(broken, [], "broken")
    assert end.value.code == 1
    assert "This should not happen: ZeroDivisionError: by zero" in capsys.readouterr().err


def test_targets_lists_what_there_is() -> None:
    rows = json.loads(leafport("targets", "--json").stdout)
    assert {"tflite-int8", "coreml-fp16", "tftrt-fp16", "onnx-float32", "savedmodel"} <= {r["artifact"] for r in rows}
    assert all(row["unavailable"] is None for row in rows)


def test_one_target_as_a_script(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leafport.targets.onnx", str(run), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--comparison-images", "9", "--onnx-opset", "18"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = manifest.read(tmp_path / "out")
    assert list(made.artifacts) == ["onnx-float32"]
    facts = made.artifacts["onnx-float32"].facts
    assert facts and facts["notes"]["opset"]["ai.onnx"] == 18


def test_verify_by_hand(exports: Path) -> None:
    done = leafport("verify", exports)
    assert done.returncode == 0, done.stdout
    assert re.search(r"All \d+ checks passed", done.stdout)


def test_predict_says_the_same_from_the_classifier_and_a_file(
    run: Path, exports: Path, photographs: tuple[Path, ...], tmp_path: Path
) -> None:
    artifact = manifest.read(exports).artifact_path(exports, "tflite-float32")
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photograph")
    answers = []
    for model in (run, artifact):
        done = leafport("predict", model, photographs[0], broken, "--json")
        assert done.returncode == 2  # One of the two is broken; the other is still classified.
        good, bad = json.loads(done.stdout)
        assert "not an image" in bad["error"]
        assert good["verdict"] in ("positive", None)
        answers.append(good["top"])
    assert [choice["label"] for choice in answers[0]] == [choice["label"] for choice in answers[1]]
    for one, two in zip(*answers, strict=True):
        assert abs(one["probability"] - two["probability"]) < 1e-4


def test_predict_never_calls_anything_safe(run: Path, photographs: tuple[Path, ...]) -> None:
    said = leafport("predict", run, *photographs).stdout.lower()
    assert "treat as dangerous" in said
    assert "do not eat" in said
    assert "safe" not in said
    assert "edible" not in said
