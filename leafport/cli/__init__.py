"""The command line: ``leafport VERB``. One thin module per verb, imported only when it is asked for.

Exit codes: 0 done, 1 something failed, 2 the user can put it right, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import leafport
from leafport.errors import LeafportError

VERBS = {
    "demo": "The whole way on drawn photographs: train, export, benchmark, report.",
    "data": "Look at photographs: counts, duplicates, doubtful labels, splits.",
    "train": "Train a classifier on a folder of photographs, one folder per class.",
    "tune": "Find the settings to train with, by trying many.",
    "evaluate": "Measure a classifier on photographs.",
    "ensemble": "Average several classifiers into one.",
    "threshold": "See what other thresholds would promise, and take one.",
    "export": "Write a classifier in every form a device wants, and prove each file.",
    "inspect": "See what a model file really holds, anybody's file.",
    "verify": "Check an export folder: hashes, contents, answers.",
    "bench": "Measure size, latency, memory, accuracy and safety of every exported file.",
    "report": "Merge benchmark results into one report.",
    "app": "Write a sample app for a device, with the exported files in it.",
    "predict": "Classify photographs with a classifier or an exported file.",
    "targets": "What can be written and run on this machine, and why not.",
}


class _Verbs(click.Group):
    """A group whose help needs none of its commands imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"leafport.cli.{cmd_name}").command
        for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            if not any(parameter.name == "debug" for parameter in one.params):
                one.params.append(_debug_option())
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}. There are: {', '.join(VERBS)}.")
        return super().resolve_command(ctx, args)


def _debug_option() -> click.Option:
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


@click.command(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with `leafport demo`, or `leafport train PHOTOS --out RUN`. Every command has --help.",
)
@click.version_option(leafport.__version__, prog_name="leafport")
def group() -> None:
    """From photographs to image classifiers that a phone or a board runs with no network.

    leafport trains a classifier, writes it as TFLite, Core ML, TF-TRT, ONNX and SavedModel files, proves that each
    file still answers as the trained model does, and measures size, latency, accuracy and safety of each.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit."""
    run(group, list(sys.argv[1:] if arguments is None else arguments), "leafport")


def run(command: click.Command, arguments: list[str], name: str) -> NoReturn:
    """Run any click command with leafport's manners: messages instead of tracebacks, and its exit codes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets with a page of notices.
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    debug = "--debug" in arguments
    try:
        code = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        code = problem.exit_code
    except LeafportError as problem:
        if debug:
            raise
        click.secho("Error: ", fg="red", bold=True, err=True, nl=False)
        click.echo(str(problem), err=True)
        code = problem.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. Nothing half-written was left behind.", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as problem:
        if debug:
            raise
        click.secho("This should not happen: ", fg="red", bold=True, err=True, nl=False)
        click.echo(
            f"{type(problem).__name__}: {problem}\nRun it again with --debug, and report what it shows.", err=True
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
