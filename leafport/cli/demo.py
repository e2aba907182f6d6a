"""leafport demo: the whole way on photographs it draws."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

MARKER = ".leafport-demo"
PHOTOGRAPHS_PER_SPECIES = 120
COMPARISON_IMAGES = 96


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="The folder to fill."
)
@click.option("--seed", default=0, show_default=True, help="Another seed, other photographs.")
@click.option(
    "--photographs",
    default=PHOTOGRAPHS_PER_SPECIES,
    show_default=True,
    type=click.IntRange(20, 2000),
    help="Photographs to draw of each of the eight species.",
)
@click.option("--epochs", type=click.IntRange(1), help="Most epochs of each training.  [default: the network's own]")
@click.option("--target", "patterns", multiple=True, metavar="NAME[-VARIANT]", help="Only these.  [default: all]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in --out.")
def command(
    out: Path, seed: int, photographs: int, epochs: int | None, patterns: tuple[str, ...], overwrite: bool
) -> None:
    """The whole way, on photographs of eight invented species that it draws itself.

    Trains a classifier of the species and one of poisonous or not, writes both in every form a device wants, measures
    every file, and ends with one report. The species do not exist: nothing here tells anything about real plants.
    """
    from leafport.cli import terminal
    from leafport.export import engine

    engine.wanted(out, patterns)  # A misspelt target should not cost two trainings.
    started = time.monotonic()
    _make_room(out, overwrite)
    positive = _draw(out, seed, photographs)
    for task in ("class", "binary"):
        _train(out, task, positive, epochs)
    failed = sum(_export(out, task, patterns) for task in ("class", "binary"))
    page, unmeasured = _measure(out)
    took = terminal.seconds(time.monotonic() - started)
    terminal.out.print(f"\nDone in {took}. The report: {page}", markup=False, soft_wrap=True)
    terminal.out.print(
        f"Next, with your own photographs: leafport train PHOTOS --out RUN\n"
        f"Or look around: leafport predict {out}/class {out}/photographs/images/*/000.jpg",
        markup=False,
        soft_wrap=True,
    )
    if failed or unmeasured:
        sys.exit(1)


def _make_room(out: Path, overwrite: bool) -> None:
    """An empty ``out``; only what an earlier demo left is ever removed. Raises OutputError."""
    from leafport import files
    from leafport.errors import OutputError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise OutputError(f"{out} is there and is no demo. Give another folder as --out.")
        if not overwrite:
            raise OutputError(f"{out} holds an earlier demo. Give --overwrite to replace it, or another --out.")
        for path in out.iterdir():
            if path.name != MARKER:
                files.remove(path)
    files.write_text(out / MARKER, "Made by `leafport demo`, which may remove everything in this folder.\n")


def _draw(out: Path, seed: int, photographs: int) -> Path:
    from leafport.cli import terminal
    from leafport.demo import plants

    _step(1, "Drawing photographs of eight invented species")
    with terminal.counting("Drawing") as progress:
        drawn = plants.draw(out / "photographs", photographs_per_species=photographs, seed=seed, progress=progress)
    return drawn.poisonous


def _train(out: Path, task: str, positive: Path, epochs: int | None) -> None:
    from leafport import files
    from leafport.cli.train import chatter, show, stages
    from leafport.training.config import Config
    from leafport.training.evaluation.evaluate import EVALUATION_FILE
    from leafport.training.train import train

    number, what = {"class": (2, "which species"), "binary": (3, "poisonous or not")}[task]
    _step(number, f"Training a small network from scratch: {what}")
    config = Config(
        out / "photographs" / "images",
        out / task,
        task=task,  # type: ignore[arg-type]
        positive=positive,
        negative_name="harmless_drawing" if task == "binary" else None,
        positive_name="poisonous_drawing" if task == "binary" else None,
        backbone="small",
        weights="none",
        epochs=epochs,
        name=f"drawn-plants-{task}",
        description="A demonstration on drawn plants; says nothing about real ones",
        author="leafport demo",
        license="Apache-2.0",
    )
    with chatter(), stages() as progress:
        train(config, progress=progress)
    show(files.read_json(out / task / EVALUATION_FILE), out / task / "classifier.json")


def _export(out: Path, task: str, patterns: tuple[str, ...]) -> int:
    from leafport.cli.export import showing
    from leafport.export import engine

    _step({"class": 4, "binary": 5}[task], f"Exporting the {task} classifier, proving each file")
    with showing(len(engine.wanted(out / task, patterns))) as listener:
        made = engine.export(
            out / task,
            out / f"{task}-exports",
            patterns,
            settings=engine.Settings(comparison_images=COMPARISON_IMAGES),
            listener=listener,
        )
    return sum(entry.status == "failed" for entry in made.artifacts.values())


def _measure(out: Path) -> tuple[Path, int]:
    from leafport.benchmarks import views
    from leafport.benchmarks.bench import bench
    from leafport.cli.bench import show, showing

    reports = []
    for number, task in ((6, "class"), (7, "binary")):
        _step(number, f"Measuring the {task} classifier's files")
        folder = out / "report" / task
        with showing() as progress:
            reports.append(bench(out / f"{task}-exports", None, folder, progress=progress))
        show(reports[-1], folder)
    page = views.render(reports, out / "report")
    return page, sum(not row.valid for report in reports for row in report.artifacts)


def _step(number: int, text: str) -> None:
    from leafport.cli import terminal

    terminal.out.print(f"\n[bold]{number}/7  {text}[/bold]")
