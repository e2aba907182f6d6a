"""leafport inspect: what a model file really holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leafport.cli import lone_file

if TYPE_CHECKING:
    from leafport.contract import Contract
    from leafport.export.inspection import Inspection

_SHOWN_LABELS = 5


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@lone_file.labels
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(file: Path, labels: Path | None, as_json: bool) -> None:
    """See what the model file FILE really holds: a .tflite, .onnx, .mlpackage, .pb or SavedModel, anybody's.

    A file whose name claims what it does not hold (an "int8" with float operations in it) is refused, with exit code
    1. The file is read in a process of its own, and none of it is run.
    """
    from leafport import files
    from leafport.export import inspection

    found = inspection.inspect(file)
    names = found.contract(labels).labels if labels else found.facts.labels
    if as_json:
        click.echo(json.dumps(_record(found, names), indent=2, ensure_ascii=False))
    else:
        _show(found, names, files.size_bytes(file))
    if found.broken:
        sys.exit(1)


def _record(found: Inspection, labels: tuple[str, ...] | None) -> dict[str, Any]:
    from leafport.export import inspection

    return {
        "target": found.target,
        "variant": found.variant,
        "broken_claims": list(found.broken),
        **inspection.to_json(found.facts),
        "labels": labels,
    }


def _show(found: Inspection, labels: tuple[str, ...] | None, size_bytes: int) -> None:
    from rich.text import Text

    from leafport.cli import terminal
    from leafport.targets import registry

    runtime = registry.load(found.target).RUNTIME
    click.echo(f"{click.style(found.path.name, bold=True)}  {terminal.size(size_bytes)}, for {runtime}\n")
    table = terminal.table("", "")
    table.show_header = False
    for name, value in _lines(found, labels):
        table.add_row(name, Text(value))
    terminal.out.print(table)
    for reason in found.broken:
        claim = f"Its name says {found.variant}, but " if found.variant else ""
        click.secho(f"\nRefused: {claim}{reason}.", fg="red")


def _lines(found: Inspection, labels: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    from leafport.wording import percent

    facts, notes = found.facts, dict(found.facts.notes)
    versions = notes.pop("op_versions", {})
    if found.variant:
        yield "claims", f"{found.variant}, by its name"
    for name, value in facts.metadata.items():
        if value:
            yield name, value
    for role, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        for tensor in tensors:
            sizes = ", ".join("any" if size is None else str(size) for size in tensor.shape)
            scale = "" if tensor.scale is None else f", scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
            yield role, f"{tensor.name}: {tensor.dtype} [{sizes}]{scale}"
    yield "weights", ", ".join(f"{number:,} {dtype}" for dtype, number in facts.weights.items()) or "none"
    operations = (
        f"{number} {name}{f' (version {versions[name]})' if name in versions else ''}"
        for name, number in facts.ops.items()
    )
    yield "operations", f"{sum(facts.ops.values())}: {', '.join(operations)}"
    for name, value in notes.items():
        yield name.replace("_", " "), percent(value) if name.endswith("_share") else _plain(value)
    yield "labels", _labels(labels)
    yield "contract", _contract(facts.contract)


def _plain(value: Any) -> str:
    """A note as text: a list's or a dictionary's members, or whatever it is."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "not said" if value is None else f"{value}"


def _contract(contract: Contract | None) -> str:
    """What a contract says, in a line or two."""
    from leafport.wording import level

    if contract is None:
        return "none: leafport did not write this file"
    image = contract.image
    said = f"{contract.name} {contract.version}: {contract.task}, {image.width} x {image.height}, {image.fit}"
    if contract.safety is not None:
        promise = f"for a recall of {level(contract.safety.required_recall)}"
        said += f", dangerous from {contract.safety.threshold:.4g} ({promise})"
    return f"{said}; sha256 {contract.sha256}"


def _labels(labels: tuple[str, ...] | None) -> str:
    if labels is None:
        return "none"
    shown = " · ".join(labels[:_SHOWN_LABELS])  # A comma may be part of a label.
    return f"{len(labels)}: {shown}{' · …' if len(labels) > _SHOWN_LABELS else ''}"
