"""leafport verify: check an export folder as it lies there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command("verify")
@click.argument("exports", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(exports: Path, as_json: bool) -> None:
    """Check the export folder EXPORTS: every hash, what each file holds, and its answers to the golden images."""
    from leafport.export.verify import Finding, verify

    def say(finding: Finding) -> None:
        if as_json:
            return
        mark = click.style("ok ", fg="green") if finding.problem is None else click.style("BAD", fg="red", bold=True)
        detail = finding.problem or ""
        if finding.verified and not finding.problem:
            detail = f"{finding.verified.top1_agreement:.0%} of {finding.verified.images} golden images agree"
        click.echo(f"{mark}  {finding.name:<18} {detail}")

    findings = verify(exports, listener=say)
    bad = [finding for finding in findings if finding.problem]
    if as_json:
        records = [
            {
                "name": finding.name,
                "problem": finding.problem,
                "verified": finding.verified.model_dump() if finding.verified else None,
            }
            for finding in findings
        ]
        click.echo(json.dumps(records, indent=2))
    elif bad:
        click.echo(f"\n{len(bad)} of {len(findings)} checks failed. Do not ship these files; export again.", err=True)
    else:
        click.echo(f"\nAll {len(findings)} checks passed.")
    if bad:
        sys.exit(1)
