"""Report files: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from leafport.benchmarks import report as schema
from leafport.benchmarks.machine import machine, versions
from leafport.benchmarks.report import Accuracy, Agreement, Artifact, ContractRecord, Data, Latency, Report
from leafport.contract import Contract, ImageInput
from leafport.errors import ModelError


def a_report(name: str = "plants") -> Report:
    contract = Contract(name=name, task="class", labels=("a", "b"), image=ImageInput(height=8, width=8))
    timed = Artifact(
        name="tflite-int8",
        target="tflite",
        variant="int8",
        sha256="0" * 64,
        executes="LiteRT",
        size_bytes=10,
        zipped_bytes=9,
        accuracy=Accuracy(n=3, top1=2 / 3),
        agreement=Agreement(n=3, top1=1.0, max_abs_diff=0.25),
        latency_ms=Latency(median=1.5, p90=2.5, p99=2.5, samples=(1.5, 2.5, 1.0), warmup=(9.0,)),
        load_ms=3.0,
        first_ms=4.0,
        peak_rss_bytes=1000,
        valid=True,
    )
    return Report(
        created="2030-01-02T03:04:05+00:00",
        machine=machine(),
        versions=versions(),
        contract=ContractRecord.of(contract),
        data=Data(root="images", photographs=3, sha256="1" * 64, split="test", left_out=0),
        threads=1,
        artifacts=(timed, Artifact(name="x", target="x", variant="", valid=False, invalid_reason="it crashed")),
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    reports = (a_report(), a_report("poison"))
    schema.write(tmp_path / "r.json", reports)
    assert schema.read(tmp_path / "r.json") == reports
    value = json.loads((tmp_path / "r.json").read_text())
    assert value["schema_version"] == 1
    assert value["reports"][0]["artifacts"][0]["latency_ms"]["samples"] == [1.5, 2.5, 1.0]
    assert value["reports"][0]["peers"] == []


def test_merging_keeps_each_report_once(tmp_path: Path) -> None:
    plants = a_report()  # Once: it says how busy the machine is, which changes.
    schema.write(tmp_path / "a.json", [plants])
    schema.write(tmp_path / "b.json", [a_report("poison"), plants])
    assert [r.contract.name for r in schema.read_all([tmp_path / "a.json", tmp_path / "b.json"])] == [
        "plants",
        "poison",
    ]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(ModelError, match=r"r\.json does not exist"):
        schema.read(path)
    value = schema.to_json([a_report()])
    value["reports"][0]["artifacts"][0]["accuracy"]["top1"] = 1.5
    for wrong in ({}, {"schema_version": 2, "reports": value["reports"]}, {"schema_version": 1, "reports": []}, value):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match=r"r\.json is not a report"):
            schema.read(path)


def test_a_figure_that_is_missing_says_why() -> None:
    with pytest.raises(ValidationError, match="does not say why"):
        Artifact(name="x", target="x", variant="", valid=False)
    with pytest.raises(ValidationError, match="has no latency"):
        Artifact(name="x", target="x", variant="", valid=True)


def test_the_machine_is_described() -> None:
    here = machine()
    assert here.cpu
    assert here.cores >= 1
    assert here.memory_bytes > 2**28
    assert {"leafport", "numpy", "tensorflow"} <= set(versions())
