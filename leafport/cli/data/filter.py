"""leafport data filter: set aside photographs that show something else."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leafport.training.data.relevance import Judgement

PATH = click.Path(path_type=Path)
SHOWN = 8


@click.command("filter", short_help="Set aside photographs that show something else.")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option(
    "--keep",
    multiple=True,
    required=True,
    metavar="CLASS",
    help='A class of ImageNet that the photographs look like: "daisy", "*mushroom*". Give as many as there are.',
)
@click.option("--out", type=PATH, required=True, help="The folder to write.")
@click.option(
    "--weights",
    required=True,
    metavar="imagenet|FILE",
    help="Where the network's weights are, those of its classification layer among them; imagenet downloads them.",
)
@click.option("--backbone", default="mobilenetv2", show_default=True, help="The network that looks at photographs.")
@click.option(
    "--imagenet-labels",
    type=PATH,
    help="A text file of the names of ImageNet's 1000 classes in their order, one a line.  [default: download them]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Drop photographs in which the classes' probabilities sum to less.",
)
def command(
    folder: Path,
    keep: tuple[str, ...],
    out: Path,
    weights: str,
    backbone: str,
    imagenet_labels: Path | None,
    threshold: float,
) -> None:
    """Set aside those photographs in DATA in which a pretrained network sees none of the classes to --keep.

    DATA stays as it is. OUT/kept and OUT/dropped hold its class folders, as links that take no room where the disk
    has them: train on the first, move back from the second what was dropped wrongly. OUT/dropped-001.png shows what
    was dropped, the most likely mistakes first, and OUT/filter.json says what was seen in every photograph.
    """
    from leafport import files
    from leafport.cli import terminal
    from leafport.cli.train import chatter
    from leafport.training import backbones
    from leafport.training.data import relevance, splits

    names = relevance.class_names(imagenet_labels)
    chosen = relevance.find(keep, names)
    terminal.out.print(f"Looking for: {_listed([names[index].split(',')[0] for index in chosen])}.", markup=False)
    with chatter():
        model = relevance.network(backbone, weights)
    with terminal.counting("Reading photographs") as progress:
        found = splits.scan(folder, progress=progress, learn=False, disputed=True)
    with terminal.counting("Looking at photographs") as progress:
        judgements = relevance.judge(found, model, names, chosen, progress=progress)
    how = {
        "keep": keep,
        "classes": [names[index] for index in chosen],
        "backbone": backbone,
        "weights_sha256": None if weights == backbones.IMAGENET else files.sha256(Path(weights)),
    }
    relevance.write(out, found, judgements, threshold, how)
    terminal.list_skipped(found.skipped)
    _show(judgements, threshold, out)


def _show(judgements: Sequence[Judgement], threshold: float, out: Path) -> None:
    import numpy as np

    from leafport.cli import terminal

    kept = Counter(one.photo.folder for one in judgements if one.probability >= threshold)
    dropped = Counter(one.photo.folder for one in judgements if one.probability < threshold)
    rows = terminal.table("class", "kept>", "dropped>")
    for name, count in dropped.most_common(SHOWN):
        rows.add_row(name, f"{kept[name]:,}", f"{count:,}")
    if dropped:
        terminal.out.print(rows)
    if len(dropped) > SHOWN:
        terminal.out.print(f"  … and {len(dropped) - SHOWN} more classes")
    low, middle, high = np.percentile([one.probability for one in judgements], (10, 50, 90))
    say = terminal.out.print
    say(f"\n{kept.total():,} photographs kept, {dropped.total():,} dropped, with a probability below {threshold:g}.")
    say(f"Half of all have {middle:.3f} or more; eight in ten lie between {low:.3f} and {high:.3f}.")
    if dropped:
        guesses = Counter(one.guess.split(",")[0] for one in judgements if one.probability < threshold)
        taken = _listed([f"{name} ({count})" for name, count in guesses.most_common()], SHOWN)
        say(f"The dropped were taken for {taken}. Add to --keep what your classes do look like.", markup=False)
    if lost := sorted(dropped.keys() - kept.keys()):
        say(f"Nothing is left of {_listed(lost)}.", style="yellow", markup=False, soft_wrap=True)
    if dropped:
        say(f"\nLook at {out / 'dropped-001.png'} first.", markup=False, soft_wrap=True)
    say(f"Next: leafport train {shlex.quote(str(out / 'kept'))} --out RUN", markup=False, soft_wrap=True)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
