"""Options for a model file that stands alone, ours or anybody's: what it does not say itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from leafport.export.inspection import Scaling


class _ScalingType(click.ParamType):  # type: ignore[type-arg]  # Generic only for type checkers.
    name = "MEAN,STD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Scaling:
        from leafport.export.inspection import Scaling

        try:
            mean, std = map(float, value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no pair of numbers. Give MEAN,STD, such as 127.5,127.5.", param, ctx)
        if not std > 0:
            self.fail("STD must be more than 0.", param, ctx)
        return Scaling((mean,), (std,))


labels = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="For a file that carries none: its outputs' labels in order, one a line.",
)
scaling = click.option(
    "--scaling",
    type=_ScalingType(),
    help="For a file that takes floats and does not say which: it gets (pixel - MEAN) / STD.",
)
