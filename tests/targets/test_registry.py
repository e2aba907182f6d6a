from __future__ import annotations

import sys
from pathlib import Path

import pytest

from leafport.errors import TargetError
from leafport.targets import registry
from leafport.targets.registry import Artifact


def test_every_built_in_target_has_the_shape_and_says_what_it_makes() -> None:
    for name in registry.BUILT_IN:
        target = registry.load(name)
        assert name == target.NAME
        assert target.RUNTIME
        for variant, description in target.VARIANTS.items():
            assert description.summary
            assert target.available(variant) is None  # The development set-up has every library.
            target.Options()


def test_selection() -> None:
    every = registry.select()
    assert [artifact.name for artifact in every if artifact.target == "tflite"] == [
        *("tflite-float32", "tflite-float16", "tflite-dynamic", "tflite-int8-qat", "tflite-int8")
    ]
    assert registry.select(["tflite-mixed"]) == [Artifact("tflite", "mixed")]  # Not without being asked for.
    assert Artifact("tflite", "mixed") not in registry.select(["tflite"])
    assert registry.select(["savedmodel", "tflite-int8"]) == [Artifact("tflite", "int8"), Artifact("savedmodel", "")]
    with pytest.raises(TargetError, match=r"no target 'tflite-int4'.*tflite-int8"):
        registry.select(["tflite-int4"])


def test_a_broken_plugin_breaks_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "broken-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[leafport.targets]\nimports = no_such_module_at_all\nhalf = half_a_target\n"
    )
    (tmp_path / "half_a_target.py").write_text("NAME = 'half'\nVARIANTS = {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"imports", "half"} <= set(registry.names())
    assert {artifact.target for artifact in registry.select()} == set(registry.BUILT_IN)
    with pytest.raises(TargetError, match="cannot be imported"):
        registry.select(["imports"])
    with pytest.raises(TargetError, match="lacks SUFFIX, RUNTIME, Options"):
        registry.load("half")
    sys.modules.pop("half_a_target", None)
