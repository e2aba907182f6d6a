"""leafport targets: what can be written and run on this machine, and why not."""

from __future__ import annotations

import json

import click

from leafport.errors import TargetError
from leafport.targets import registry
from leafport.targets.registry import Artifact


@click.command("targets")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(as_json: bool) -> None:
    """What can be written and run on this machine, and why not."""
    rows = [row for name in registry.names() for row in _rows(name)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from leafport.cli import terminal

    table = terminal.table("artifact", "runtime", "here", "what it is")
    for row in rows:
        table.add_row(row["artifact"], row["runtime"], row["unavailable"] or "yes", row["summary"])
    terminal.out.print(table)


def _rows(name: str) -> list[dict[str, str | None]]:
    try:
        target = registry.load(name)
    except TargetError as problem:
        return [{"artifact": name, "runtime": "", "unavailable": str(problem), "summary": ""}]
    return [
        {
            "artifact": Artifact(name, variant).name,
            "runtime": target.RUNTIME,
            "unavailable": target.available(variant),
            "summary": facts.summary,
        }
        for variant, facts in target.VARIANTS.items()
    ]
