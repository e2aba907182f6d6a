"""leafport tune: which of train's settings do best, by the validation photographs."""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leafport.cli import train
from leafport.errors import UserError

if TYPE_CHECKING:
    from leafport.training.config import Config
    from leafport.training.tuning.search import Parameters, Range, Space
    from leafport.training.tuning.study import Study, Trial

DEFAULTS = {
    "head": "gap/dense/conv/residual",
    "dropout": "0.2..0.6",
    "augment": "light/strong/light,mixup=0.2",
    "unfreeze": "none/late/all",
}
"""What is varied unless something else was asked for; and the learning rate, whose range the backbone's decides."""

ALLOWED = (
    *("head", "units", "head-blocks", "filters", "activation", "dropout", "l2", "backbone", "image-size", "resize"),
    *("fine-tuning-size", "unfreeze", "epochs", "head-epochs", "batch-size", "learning-rate", "schedule", "patience"),
    *("augment", "label-smoothing", "focal", "safety-loss", "balance"),
)
OPTIONS = {option.opts[0].removeprefix("--"): option for option in train.command.params}


@click.command("tune", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="DATA [OPTIONS OF leafport train]…")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The study's folder to write or go on with."
)
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME[=VALUES]",
    help="An option of `leafport train` that trials differ in: head=gap/conv tries these, dropout=0.2..0.6 numbers "
    "between the two, learning-rate=1e-5..1e-3:log as many below 1e-4 as above. May be given several times.  "
    "[default: head, dropout, learning-rate, augment and unfreeze, but for those given as options]",
)
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="How many there shall be in all.")
@click.option(
    "--search",
    type=click.Choice(["tpe", "random", "grid"]),
    default="tpe",
    show_default=True,
    help="tpe looks where earlier trials did well; grid takes every combination, of a range both ends and the middle.",
)
@click.option(
    "--objective",
    type=click.Choice(["loss", "accuracy", "false-alarms"]),
    default="loss",
    show_default=True,
    help="What the best trial is best in, on the validation photographs: cross-entropy, top-1 accuracy, or false "
    "alarms at the threshold that promises the required recall.",
)
@click.option("--overwrite", is_flag=True, help="Drop a study that stands at --out, and begin anew.")
def command(arguments: tuple[str, ...], out: Path, vary: tuple[str, ...], overwrite: bool, **settings: Any) -> None:
    """Train on the photographs in DATA with many settings for a short while each, and say which did best.

    Every option of `leafport train` (see its --help) may be given too, and holds for all trials; --max-steps, --epochs
    and --head-epochs keep them short. Trials are judged by the validation photographs alone: the test split is the
    same for all of them, and none of them sees it.

    A search that was interrupted or killed goes on when the same command is given again, and so does a finished one
    with more --trials. At the end stands the command that trains with the best settings.
    """
    from leafport.cli import terminal
    from leafport.training.data.splits import Splits
    from leafport.training.evaluation.selection import SPLITS_FILE
    from leafport.training.tuning.study import STUDY_FILE
    from leafport.training.tuning.tune import tune

    fixed = _context(arguments, out)
    if fixed.params["source"] or fixed.params["quantise"]:
        raise click.UsageError("A search begins anew, with the backbone's weights: leave --from and --qat.")
    space = read_space(vary, train.configuration(**fixed.params), _given(fixed))

    def configure(parameters: Parameters) -> Config:
        return train.configuration(**_context([*arguments, *options_of(parameters)], out).params)

    try:
        with trials(settings["trials"]) as (progress, watch):
            study = tune(configure, space, out, overwrite=overwrite, progress=progress, watch=watch, **settings)
    except KeyboardInterrupt:
        if (out / STUDY_FILE).exists():
            terminal.err.print("What was tried so far is kept: the same command goes on from there.")
        raise
    terminal.list_skipped(Splits.load(out / SPLITS_FILE).skipped)
    show(study)
    if len(study.trials) < settings["trials"]:
        terminal.out.print(f"\nThere are {len(study.trials)} trials and no more: nothing is left to try.", markup=False)
    if study.best:
        say = partial(terminal.out.print, markup=False, soft_wrap=True)
        say(f"\nThe best is trial {study.best.number}. To train with its settings, and then test:")
        say(shlex.join(best_command(arguments, study.best, out, splits="splits" not in _given(fixed))))


def read_space(varied: Sequence[str], config: Config, given: frozenset[str]) -> Space:
    """What --vary asks for, or what is varied where nothing is asked for.

    Args:
        varied: ``NAME``, ``NAME=one/another`` or ``NAME=low..high``, and ``:log`` behind it.
        config: the settings that all trials share.
        given: the names of the options these came from.

    Raises:
        UserError: a name that cannot be varied, was given twice, or has no values; or values that cannot be read.
    """
    rate = config.recipe.learning_rate
    defaults = {**DEFAULTS, "learning-rate": f"{0.3 * rate:g}..{3 * rate:g}:log"}
    if not varied:
        only_head = config.unfreeze == "none" or config.epochs == 0
        idle = {"learning-rate", "augment", "unfreeze"} if only_head else {"unfreeze"} if config.scratch else set()
        varied = [name for name in OPTIONS if name in defaults.keys() - given - idle]
        if not varied:
            raise UserError(
                "All that is varied by default is given as an option. Say what to vary: --vary NAME=VALUES."
            )
    space: dict[str, Any] = {}
    for text in varied:
        name, _, values = text.partition("=")
        name = name.strip().replace("_", "-")
        if name not in ALLOWED:
            close = difflib.get_close_matches(name, ALLOWED, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"--vary {text}: {name!r} cannot be varied.{hint} There are: {', '.join(ALLOWED)}.")
        if name in space or name in given:
            where = "--vary twice" if name in space else f"--{name} and --vary"
            raise UserError(f"{name} is given as {where}. Give it once.")
        values = values or defaults.get(name, "")
        if not values:
            raise UserError(f"--vary {text}: say between what: --vary {name}=ONE/ANOTHER or --vary {name}=LOW..HIGH.")
        space[name] = _domain(name, values)
    return space


def options_of(parameters: Parameters) -> list[str]:
    """A trial's parameters as options of `leafport train`."""
    return [text for name, value in parameters.items() for text in (f"--{name}", _text(value))]


def best_command(arguments: Sequence[str], best: Trial, out: Path, *, splits: bool) -> list[str]:
    """The command that trains with the settings of a trial, on the study's own split unless another one was given."""
    from leafport.training.evaluation.selection import SPLITS_FILE

    shared = ["--splits", str(out / SPLITS_FILE)] if splits else []
    run = out.parent / f"{out.name}-best"
    return ["leafport", "train", *arguments, *options_of(best.parameters), *shared, "--out", str(run)]


def show(study: Study) -> None:
    """A line for every trial, the best first."""
    from leafport.cli import terminal

    space, alarms = study.request["space"], study.objective == "false-alarms"
    names = [f"{name}>" if "low" in domain else name for name, domain in space.items()]
    figures = ["loss>", "top-1>", *(["false alarms>"] if alarms else [])]
    table = terminal.table("trial>", *figures, *names, "epochs>", "time>", "")
    for trial in study.ranked:
        shares = [trial.accuracy, *([trial.false_alarm_rate] if alarms else [])]
        table.add_row(
            str(trial.number),
            "" if trial.loss is None else f"{trial.loss:.4f}",
            *("" if share is None else f"{share:.1%}" for share in shares),
            *(_text(trial.parameters[name]) for name in space),
            str(trial.epochs or ""),
            terminal.seconds(trial.seconds),
            trial.reason,
        )
    terminal.out.print(table)


@contextlib.contextmanager
def trials(count: int) -> Iterator[tuple[Callable[[str, int, int, str], None], Callable[[Study], None]]]:
    """A progress bar for the trials and one for that which is running; and a line for each that ends."""
    from leafport.cli import terminal

    with terminal.progress() as display:
        every = display.add_task("Trials", total=count, visible=False)
        current = display.add_task("", total=None)
        running = ""

        def progress(stage: str, done: int, total: int, note: str) -> None:
            description = f"{running}{stage}, {note}" if note else f"{running}{stage}"
            display.update(current, completed=done, total=total, description=description)

        def watch(study: Study) -> None:
            nonlocal running
            last = next((trial for trial in study.trials if trial.state == "running"), study.trials[-1])
            running = f"Trial {last.number}: "
            over = sum(trial.state != "running" for trial in study.trials)
            display.update(every, completed=over, visible=True)
            if last.state == "running":
                display.update(current, completed=0, total=None, description=f"{running}beginning")
            else:
                terminal.err.print(_told(last, study), markup=False, soft_wrap=True)

        yield progress, watch


def _told(trial: Trial, study: Study) -> str:
    settings = ", ".join(f"{name} {_text(value)}" for name, value in trial.parameters.items())
    if trial.state == "failed":
        return f"Trial {trial.number} failed ({settings}): {trial.reason}"
    best = "the best so far" if trial is study.best else f"trial {study.best.number} is better" if study.best else ""
    return f"Trial {trial.number}, {best}: {study.objective} {study.value(trial):.4g} ({settings})"


def _context(arguments: Sequence[str], out: Path) -> click.Context:
    """What `leafport train` makes of arguments. Raises click.UsageError."""
    return train.command.make_context("leafport tune", [*arguments, "--out", str(out)])


def _given(context: click.Context) -> frozenset[str]:
    """The names of the options that stand on the command line."""
    typed = click.core.ParameterSource.COMMANDLINE
    return frozenset(
        name for name, option in OPTIONS.items() if context.get_parameter_source(option.name or "") == typed
    )


def _domain(name: str, values: str) -> Any:
    from leafport.training.tuning.search import Choices

    if ".." in values:
        return _range(name, values)
    return Choices(tuple(value.strip() for value in values.split("/")))


def _range(name: str, values: str) -> Range:
    """``low..high`` or ``low..high:log``, of whole numbers unless the option takes others."""
    from leafport.training.tuning.search import Range

    ends, _, scale = values.partition(":")
    number = float if isinstance(OPTIONS[name].type, click.types.FloatParamType) else int
    try:
        low, high = map(number, ends.split(".."))
        if scale not in ("", "log"):
            raise ValueError
    except ValueError:
        kind = "two numbers" if number is float else "two whole numbers"
        raise UserError(
            f"--vary {name}={values}: a range is {kind}: {name}=LOW..HIGH or {name}=LOW..HIGH:log."
        ) from None
    return Range(low, high, scale == "log")


def _text(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
