"""leafport data preview: what an augmentation does to a photograph."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)


@click.command("preview", short_help="Draw what augmentation does to a photograph.")
@click.argument("photograph", metavar="PHOTO", type=PATH)
@click.argument("other", metavar="[OTHER]", type=PATH, required=False)
@click.option("--out", type=PATH, required=True, help="The PNG file to write.")
@click.option(
    "--augment",
    "text",
    metavar="TEXT",
    help="What `leafport train --augment` takes, such as rotation=25,mixup=0.2: the defaults, changed; "
    "none,rotation=25 starts from nothing.  [default: everything there is, strong enough to be seen]",
)
@click.option("--image-size", type=click.IntRange(8, 512), default=224, show_default=True, help="Side of a tile.")
@click.option("--draws", type=click.IntRange(1, 20), default=6, show_default=True, help="Tiles a row.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other draws.")
def command(
    photograph: Path, other: Path | None, out: Path, text: str | None, image_size: int, draws: int, seed: int
) -> None:
    """Draw what each augmentation does to PHOTO, and what all do together.

    MixUp and CutMix mix it with OTHER, or with itself upside down.
    """
    from leafport import files
    from leafport.cli import terminal
    from leafport.cli.train import chatter
    from leafport.contract import ImageInput
    from leafport.training.data import contact_sheet, preview
    from leafport.training.data.augment import Augmentation

    strength = preview.EVERYTHING if text is None else Augmentation.parse(text)
    rule = ImageInput(height=image_size, width=image_size)
    with chatter():
        page = contact_sheet.draw(preview.rows(photograph, rule, strength, other=other, draws=draws, seed=seed))
    with files.staged(out) as staging:
        page.save(staging, "PNG")
    terminal.out.print(f"{out}: {page.width} x {page.height} pixels.", markup=False, soft_wrap=True)
