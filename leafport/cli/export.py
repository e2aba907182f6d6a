"""leafport export: write a classifier in every form a device wants."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from leafport.cli.train import Numbers
from leafport.contract import Safety
from leafport.errors import TargetError
from leafport.export import engine
from leafport.export.engine import Event, Settings
from leafport.export.manifest import Entry, Gate, Manifest
from leafport.targets import registry
from leafport.targets.registry import Artifact


def target_flags(names: list[str]) -> Callable[[Any], Any]:
    """Add a flag for every option of these targets, ``--tflite-per-channel-dense`` and the like, with its help."""

    def decorate(function: Any) -> Any:
        for name, field in reversed([pair for target in names for pair in _settable(target)]):
            flag = f"--{name}-{field.name}".replace("_", "-")
            kind: dict[str, Any] = {"type": type(field.default)}
            if isinstance(field.default, bool):
                flag, kind = f"{flag}/--no-{flag[2:]}", {}
            help_text = field.metadata["help"]
            function = click.option(
                flag, f"{name}__{field.name}", default=field.default, show_default=True, help=help_text, **kind
            )(function)
        return function

    return decorate


def _settable(name: str) -> list[tuple[str, dataclasses.Field[Any]]]:
    try:
        fields = dataclasses.fields(registry.load(name).Options)
    except TargetError:
        return []  # `leafport targets` says why it does not load.
    return [(name, field) for field in fields if "help" in field.metadata]


def shared_options(function: Any) -> Any:
    """The options that every way to export has."""
    options = [
        click.argument("run", type=click.Path(path_type=Path)),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="The export folder."),
        click.option("--data", type=click.Path(path_type=Path), help="Where the photographs lie now, if they moved."),
        click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Artifacts at a time."),
        click.option("--time-limit", default=1800.0, show_default=True, help="Seconds one conversion may take."),
        click.option("--memory-limit", type=float, help="GiB one conversion may use.  [default: 80 % of all]"),
        click.option(
            "--calibration-images",
            default=140,
            show_default=True,
            type=click.IntRange(1),
            help="Photographs of the training split to calibrate int8 on.",
        ),
        click.option(
            "--calibration-curve",
            type=Numbers(),
            metavar="N,N…",
            help="Show what other numbers of them would make of every file that is calibrated: 8,32,128,512.",
        ),
        click.option(
            "--comparison-images",
            default=300,
            show_default=True,
            type=click.IntRange(1),
            help="Photographs of the test split on which each file must answer as the classifier does.",
        ),
        click.option(
            "--alarm-margin",
            default=4.0,
            show_default=True,
            type=click.FloatRange(0),
            help="An 8-bit file's own threshold allows for so many times what rounding takes from scores near it; 0: "
            "it is the classifier's.",
        ),
        click.option(
            "--min-agreement",
            type=click.FloatRange(0, 1),
            help="Share of those photographs with an equal top class.  [default: each variant's own]",
        ),
        click.option(
            "--max-drop",
            metavar="POINTS",
            type=click.FloatRange(0, 100),
            help="Percentage points of top-1 that a file may lose on them.  [default: any]",
        ),
        click.option(
            "--max-flips",
            type=click.IntRange(0),
            help="How many of them a file may let pass that the classifier calls dangerous.  [default: any]",
        ),
        click.option("--overwrite", is_flag=True, help="Replace the exports of another classifier in --out."),
        click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON instead of a table."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command("export")
@shared_options
@click.option(
    "--target",
    "patterns",
    multiple=True,
    metavar="NAME[-VARIANT]",
    help="Only this target, or this variant of it; may be given several times.  [default: all]",
)
@target_flags(registry.names())
def command(patterns: tuple[str, ...], **arguments: Any) -> None:
    """Write the classifier in the folder RUN in every form a device wants, and prove each file.

    Each file is written by a process of its own, opened again, held against its name, and run on photographs of the
    test split: it appears only if it answers as the classifier does. Run again to go on where an export stopped.
    """
    _export(patterns, **arguments)


def script(name: str) -> NoReturn:
    """``python -m leafport.targets.NAME``: the same export for one target."""
    from leafport.cli import run

    @click.command(name)
    @shared_options
    @click.option("--variant", "variants", multiple=True, type=click.Choice(list(registry.load(name).VARIANTS)))
    @target_flags([name])
    def only(variants: tuple[str, ...], **arguments: Any) -> None:
        _export([Artifact(name, variant).name for variant in variants] or [name], **arguments)

    only.help = f"Write the classifier in the folder RUN for {registry.load(name).RUNTIME}, and prove each file."
    run(only, sys.argv[1:], f"python -m leafport.targets.{name}")


def _export(
    patterns: Any,
    run: Path,
    out: Path,
    data: Path | None,
    jobs: int,
    time_limit: float,
    memory_limit: float | None,
    calibration_images: int,
    calibration_curve: tuple[int, ...] | None,
    comparison_images: int,
    alarm_margin: float,
    min_agreement: float | None,
    max_drop: float | None,
    max_flips: int | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    options: dict[str, dict[str, Any]] = {}
    for flag, value in flags.items():
        target, _, field = flag.partition("__")
        options.setdefault(target, {})[field] = value
    settings = Settings(
        jobs=jobs,
        time_limit_s=time_limit,
        memory_limit_bytes=int(memory_limit * 2**30) if memory_limit else None,
        calibration_images=calibration_images,
        calibration_curve=calibration_curve or (),
        comparison_images=comparison_images,
        alarm_margin=alarm_margin,
        gate=Gate(
            min_agreement=min_agreement,
            max_drop=None if max_drop is None else max_drop / 100,
            max_flips=max_flips,
        ),
        options=options,
    )
    with showing(len(engine.wanted(run, patterns))) as listener:
        made = engine.export(run, out, patterns, data=data, settings=settings, overwrite=overwrite, listener=listener)
    if as_json:
        click.echo(json.dumps(made.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        show(made, out)
    if any(entry.status == "failed" for entry in made.artifacts.values()):
        sys.exit(1)


@contextlib.contextmanager
def showing(total: int, title: str = "Exporting") -> Iterator[engine.Listener]:
    """A progress bar and a line per finished artifact."""
    from leafport.cli import terminal

    with terminal.progress() as display:
        bar = display.add_task(title, total=total)
        current: dict[str, str] = {}

        def listen(event: Event) -> None:
            if event.entry is None:
                if event.step.endswith("ing"):
                    current[event.name] = event.step
                else:
                    current.pop(event.name, None)
                    display.console.print(f"  {event.name:<18} {event.step}")
            else:
                current.pop(event.name, None)
                display.console.print(_line(event), markup=False, soft_wrap=True)
                display.advance(bar)
            busy = ", ".join(f"{step} {name}" for name, step in current.items())
            display.update(bar, description=busy or title)

        yield listen


def _line(event: Event) -> str:
    from leafport.cli import terminal

    entry = event.entry
    assert entry is not None
    if entry.status != "ok" or entry.verified is None:
        return f"  {event.name:<18} {entry.status}: {entry.reason}"
    kept = "  (already there)" if event.step == "kept" else ""
    return (
        f"  {event.name:<18} {terminal.size(entry.bytes or 0):>9}  {terminal.seconds(entry.seconds or 0):>8}  "
        f"{entry.verified.top1_agreement:7.1%} agreement{kept}"
    )


def show(made: Manifest, out: Path) -> None:
    """The table at the end, and the next command."""
    from leafport.cli import terminal

    table = terminal.table(
        *("artifact", "size>", "agreement>", "top-1>", "max diff>", "threshold>", "to safe>", "took>", "memory>")
    )
    for name, entry in made.artifacts.items():
        table.add_row(*_row(name, entry, made.contract_of(name).safety))
    terminal.out.print(table)
    images = next((entry.verified.images for entry in made.artifacts.values() if entry.verified), 0)
    reference = next((entry.verified.reference_top1 for entry in made.artifacts.values() if entry.verified), None)
    right = "" if reference is None else f" (the classifier: {reference:.1%})"
    terminal.out.print(
        f"\nAgreement: the same top class as the classifier on {images} photographs; top-1: the right one{right}. "
        "To safe: photographs it calls positive and the file, at its own threshold, does not.",
        soft_wrap=True,
    )
    _show_calibration(made)
    terminal.out.print(f"Next: leafport bench {out} --out REPORT", soft_wrap=True, markup=False)


def _show_calibration(made: Manifest) -> None:
    """What other numbers of photographs would have made of each file; and a warning where too few were taken."""
    from leafport.cli import terminal

    curves = {name: entry.calibration_curve for name, entry in made.artifacts.items() if entry.calibration_curve}
    if curves:
        table = terminal.table("calibrated on>", "artifact", "agreement>", "top-1>")
        for name, points in curves.items():
            for point in points:
                right = "–" if point.top1 is None else f"{point.top1:.1%}"
                table.add_row(f"{point.images}", name, f"{point.top1_agreement:.1%}", right)
        terminal.out.print(table)
    used = made.calibration
    if used and used.classes and used.of_classes and used.classes < used.of_classes:
        terminal.out.print(
            f"The {used.images} calibration photographs show {used.classes} of {used.of_classes} classes: int8 files "
            "may round the others badly. Give more --calibration-images.",
            style="yellow",
            soft_wrap=True,
        )


def _row(name: str, entry: Entry, safety: Safety | None) -> list[str]:
    from leafport.cli import terminal

    if entry.status != "ok" or entry.verified is None:
        return [name, entry.status, *[""] * 7]
    verified = entry.verified
    return [
        name,
        terminal.size(entry.bytes or 0),
        f"{verified.top1_agreement:.1%}",
        "–" if verified.top1 is None else f"{verified.top1:.1%}",
        f"{verified.max_abs_diff:.1e}",
        "–" if safety is None else f"{safety.threshold:g}",
        "–" if verified.flips_to_safe is None else str(verified.flips_to_safe),
        terminal.seconds(entry.seconds or 0),
        terminal.size(entry.peak_rss_bytes or 0),
    ]
