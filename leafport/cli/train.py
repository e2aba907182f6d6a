"""leafport train: from a folder of photographs to a classifier."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from leafport.training.backbones import BACKBONES
from leafport.training.data.augment import Augmentation
from leafport.training.distributed import HOSTS_VARIABLE, PORT
from leafport.training.heads import ACTIVATIONS, KINDS, Head

if TYPE_CHECKING:
    from leafport.training.config import Config

MAX_CHATTER_BYTES = 2**20
FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)
HEAD_OPTIONS = ("kind", "units", "blocks", "filters", "activation", "l2")
HOST_OPTIONS = ("hosts", "host_index")


SECTIONS = {
    "What is asked": ("out", "task", "positive", "positive_name", "negative_name", "overwrite"),
    "Going on": ("source", "quantise"),
    "Photographs": (
        *("splits", "validation", "test", "resize", "image_size", "fine_tuning_size", "augmentation", "cache"),
    ),
    "Network": ("backbone", "weights", "kind", "units", "blocks", "filters", "activation", "dropout", "l2"),
    "Learning": (
        *("unfreeze", "epochs", "head_epochs", "batch_size", "learning_rate", "schedule", "patience", "max_steps"),
        *("balance", "label_smoothing", "focus", "safety_loss", "sparsity", "clusters", "precision", "seed"),
    ),
    "Several hosts": HOST_OPTIONS,
    "Safety": ("required_recall",),
    "For the files' metadata": ("name", "version", "description", "author", "license", "locale"),
}


class Sectioned(click.Command):
    """A command whose help has its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        known = {name for names in SECTIONS.values() for name in names}
        for title, names in {**SECTIONS, "Other": tuple(name for name in records if name not in known)}.items():
            if rows := [record for name in names if (record := records.get(name))]:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers. Write them with commas: 256,128.", param, ctx)


class Blocks(click.ParamType[Any]):
    """Which blocks of a backbone: none, late, all, or so many at its end."""

    name = "blocks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("none", "late", "all"):
            return value
        if not str(value).isdecimal() or not int(value):
            self.fail(f"{value!r} is not none, late, all or a number of blocks.", param, ctx)
        return int(value)


class Variation(click.ParamType[Any]):
    """How photographs are varied: what ``Augmentation.parse`` understands, or none."""

    name = "augmentation"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Augmentation) or value == "none":
            return value
        return Augmentation.parse(value)


@click.command("train", cls=Sectioned)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The classifier's folder to write.")
@click.option(
    "--task",
    type=click.Choice(["class", "binary"]),
    default="class",
    show_default=True,
    help="Tell all classes apart, or only the positive ones from the others.",
)
@click.option(
    "--positive",
    type=click.Path(path_type=Path),
    help="A text file naming the positive (dangerous) class folders, one a line. Needed for a binary task; for a "
    "class task it adds the decision threshold.",
)
@click.option("--positive-name", help="A binary task's positive label.  [default: the positive file's name]")
@click.option("--negative-name", help="A binary task's other label.  [default: not_ and the positive file's name]")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on from a finished classifier: its network, split and question stay, and how it learned where no other "
    "option says otherwise.",
)
@click.option(
    "--qat",
    "quantise",
    is_flag=True,
    help="Quantisation-aware training: with --from, learn to be rounded as an int8 file rounds. `leafport export` then "
    "writes tflite-int8-qat.",
)
@click.option("--backbone", type=click.Choice(list(BACKBONES)), default="resnet50", show_default=True)
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|none|FILE",
    help="Where to start from: download, from scratch, or a file with the backbone's weights.",
)
@click.option("--image-size", type=click.IntRange(32, 4096), help="Side of the model's input.  [default: 224]")
@click.option(
    "--fine-tuning-size",
    type=click.IntRange(32, 4096),
    help="Fine-tune with smaller photographs, which is quicker; the head is fitted at full size afterwards.  [default: "
    "that of the input]",
)
@click.option(
    "--resize",
    type=click.Choice(["squash", "crop"]),
    default="squash",
    show_default=True,
    help="How a photograph becomes square.",
)
@click.option("--head", "kind", type=click.Choice(KINDS), help="What stands on the backbone.  [default: gap]")
@click.option("--units", type=Numbers(), metavar="N,N…", help="Sizes of the head's dense layers before the last.")
@click.option("--head-blocks", "blocks", type=click.IntRange(1), help="A conv or residual head's blocks.  [default: 1]")
@click.option("--filters", type=click.IntRange(1), help="A conv or residual head's width.  [default: 256]")
@click.option(
    "--activation",
    type=click.Choice(ACTIVATIONS),
    metavar="NAME",
    help=f"In the head's inner layers: {', '.join(ACTIVATIONS)}.  [default: relu]",
)
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="Share of the features dropped.")
@click.option("--l2", type=click.FloatRange(0), help="Penalty on the squares of the head's weights.  [default: 0]")
@click.option(
    "--unfreeze",
    type=Blocks(),
    metavar="none|late|all|N",
    default="late",
    show_default=True,
    help="Which of the backbone's blocks fine-tuning changes, or how many at its end; the early ones cost half the "
    "time and matter little.",
)
@click.option("--epochs", type=click.IntRange(0), help="Most epochs after the head's; 0 trains the head only.")
@click.option("--head-epochs", default=30, show_default=True, type=click.IntRange(1), help="Most epochs of the head.")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Photographs a step.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Its peak after the head's training.")
@click.option("--schedule", type=click.Choice(["cosine", "plateau"]), help="How it falls.  [default: cosine]")
@click.option(
    "--patience",
    type=click.IntRange(1),
    help="Epochs without a better validation loss before stopping.  [default: 6 on a plateau, else never]",
)
@click.option("--max-steps", type=click.IntRange(1), help="Most steps a stage, for trials.")
@click.option(
    "--augment",
    "augmentation",
    type=Variation(),
    metavar="NAME=X,…|none",
    help="How far photographs are varied while learning; `leafport data preview` shows it.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of each label spread over all.  [default: 0]",
)
@click.option("--focal", "focus", type=click.FloatRange(0), help="Gamma of the focal loss.  [default: 0, which is off]")
@click.option(
    "--safety-loss",
    type=click.FloatRange(0),
    help="Weight of a second loss, of taking a positive for a negative or the other way round.  [default: 0]",
)
@click.option(
    "--prune",
    "sparsity",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of the weights that become zeros, which a zipped file has for nothing.  [default: 0]",
)
@click.option(
    "--cluster",
    "clusters",
    type=click.IntRange(4, 64),
    help="Let the weights of a layer share so many values, which zips to less.  [default: they share none]",
)
@click.option(
    "--balance",
    type=click.Choice(["none", "weights", "over", "under"]),
    help="Make up for rare labels: weigh them, or repeat or leave out photographs.  [default: weights if binary]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "mixed"]),
    help="mixed computes in bfloat16, which accelerators do faster; auto does where there is one.  [default: auto]",
)
@click.option("--cache/--no-cache", default=True, help="Keep decoded photographs on disk meanwhile.  [default: yes]")
@click.option("--splits", type=click.Path(path_type=Path), help="A split made by `leafport data split`.")
@click.option("--validation", type=FRACTION, help="Share of the photographs to tune on.  [default: 0.1]")
@click.option("--test", type=FRACTION, help="Share of the photographs to test on.  [default: 0.1]")
@click.option("--seed", type=int, help="Another seed: another split, another start.  [default: 0]")
@click.option("--required-recall", type=FRACTION, help="What the threshold should promise.  [default: 0.95]")
@click.option("--name", help="The classifier's name: a-z, 0-9, - and _.  [default: from the folder's name]")
@click.option("--model-version", "version", help="The classifier's version.  [default: 1.0.0]")
@click.option("--description", help="What it tells apart, for the files' metadata.")
@click.option("--author", help="Whose it is, for the files' metadata.")
@click.option("--license", help="Its licence, for the files' metadata.")
@click.option("--locale", help="The labels' language, such as en or pt-BR, for the files' metadata.")
@click.option("--overwrite", is_flag=True, help="Replace a classifier that stands at --out.")
@click.option(
    "--hosts",
    envvar=HOSTS_VARIABLE,
    metavar="HOST[:PORT],HOST…",
    help="Train on several machines (or all accelerators of one), with JAX. They meet at the first one's port, "
    f"{PORT} by default.",
)
@click.option(
    "--host-index", type=click.IntRange(0), metavar="N", help="Which of --hosts this one is.  [default: a scheduler's]"
)
def command(data: Path, out: Path, **options: Any) -> None:
    """Train a classifier on the photographs in DATA: one folder of them per class.

    The photographs are split into training, validation and test ones by their content, those that show the same
    picture on one side. With pretrained weights the head is trained first, then the backbone's later layers gently;
    with --weights none everything is trained from scratch. With --from a finished classifier learns on.

    A training that was interrupted or killed goes on after its last epoch when the same command is given again.

    With --hosts the same command is given on every host, each with its own --host-index and all the photographs;
    together they learn what one would from the same batches, and the first writes the result. In the environment
    LEAFPORT_HOSTS and LEAFPORT_HOST_INDEX say the same, and Slurm, Open MPI and Kubernetes tell each its number
    themselves. Hosts trust one another: keep the port inside your own network.
    """
    from leafport import files
    from leafport.cli import terminal
    from leafport.training import checkpoint, distributed
    from leafport.training.data.splits import Splits
    from leafport.training.evaluation.evaluate import EVALUATION_FILE
    from leafport.training.evaluation.selection import SPLITS_FILE
    from leafport.training.train import LOG_FILE, train

    hosts, index = options["hosts"], options["host_index"]
    if index is not None and hosts is None:
        raise click.UsageError("--host-index says which of --hosts this one is. Give --hosts too.")
    if hosts and options["source"]:
        raise click.UsageError("--from is for one machine: leave --hosts.")
    if hosts and (options["sparsity"] or options["clusters"]):
        raise click.UsageError("--prune and --cluster are for one machine: leave --hosts.")
    cluster = distributed.cluster(hosts, index) if hosts else None
    if options["source"]:
        source = click.get_current_context().get_parameter_source
        options = {name: value for name, value in options.items() if source(name) is not ParameterSource.DEFAULT}
    config = configuration(data, out, **options)
    try:
        with chatter() as caught, stages() as progress:
            train(config, cluster=cluster, progress=progress)
    except KeyboardInterrupt:
        if checkpoint.folder_for(out).exists():
            terminal.err.print("What was learned so far is kept: the same command goes on after the last epoch.")
        raise
    if cluster and not cluster.first:
        terminal.out.print(
            f"Host {cluster.index} has done its part: {out} is written on {cluster.hosts[0]}.", markup=False
        )
        return
    with (out / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(f"\nWhat the libraries printed:\n{''.join(caught)}")
    terminal.list_skipped(Splits.load(out / SPLITS_FILE).skipped)
    show(files.read_json(out / EVALUATION_FILE), out / "classifier.json")
    suggest_export(out)


def configuration(data: Path, out: Path, **options: Any) -> Config:
    """What the command's parameters ask for; those that are None were not given. Raises UserError."""
    from leafport.training import origin
    from leafport.training.config import Config

    given = {name: value for name, value in options.items() if value is not None and name not in HOST_OPTIONS}
    if head := {name: given.pop(name) for name in HEAD_OPTIONS if name in given}:
        given["head"] = Head(**head)
    if given.get("augmentation") == "none":
        given["augmentation"] = None
    if source := given.pop("source", None):
        return origin.settings(source, data, out, given)
    return Config(data, out, **given)


def show(value: dict[str, Any], contract_file: Path) -> None:
    """The lines at the end: how good it is, and what its threshold promises."""
    from leafport import files, promise
    from leafport.cli import terminal
    from leafport.contract import Contract

    contract = Contract.from_json(files.read_json(contract_file), where=contract_file)
    accuracy = ", ".join(f"top-{k} {value[f'top{k}']:.1%}" for k in (1, 3, 5) if value[f"top{k}"] is not None)
    low, high = value["intervals"]["top1"]
    say = partial(terminal.out.print, markup=False, soft_wrap=True)
    say(f"{contract.name}: {accuracy} of {value['n']} photographs it has not learned from.")
    say(f"On others like them top-1 lies between {low:.1%} and {high:.1%}, with {value['confidence']:.0%} confidence.")
    binary, safety = value.get("binary"), contract.safety
    if not binary or not safety:
        return
    for sentence in promise.in_words(safety, binary):
        say(sentence, style=None if safety.attained else "yellow")


def suggest_export(run: Path) -> None:
    """The last line: what to do with a finished classifier."""
    from leafport.cli import terminal

    exports = run.parent / f"{run.name}-exports"
    terminal.out.print(
        f"\nNext: leafport export {shlex.quote(str(run))} --out {shlex.quote(str(exports))}", markup=False
    )


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, int, int, str], None]]:
    """A progress bar for every stage, fed with (stage, done, in all, note)."""
    from leafport.cli import terminal

    with terminal.progress() as display:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(stage)
            description = f"{stage}, {note}" if note else stage
            display.update(tasks[stage], completed=done, total=total, description=description)

        yield report


@contextlib.contextmanager
def chatter() -> Iterator[list[str]]:
    """Keep off the terminal what libraries print to standard error; afterwards the yielded list holds it as one text.

    C++ writes to the file descriptor, past ``sys.stderr``, so the descriptor itself is led into a file for a while,
    and leafport's own console writes to a copy of the real one.
    """
    from rich.console import Console

    from leafport.cli import terminal

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    console = terminal.err
    caught: list[str] = []
    with tempfile.TemporaryFile() as file, os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") as real:
        if _is_standard_error(sys.stderr):
            terminal.err = Console(file=real, highlight=False)
        os.dup2(file.fileno(), 2)
        try:
            yield caught
        finally:
            sys.stderr.flush()
            os.dup2(real.fileno(), 2)
            terminal.err = console
            file.seek(0)
            caught.append(file.read(MAX_CHATTER_BYTES).decode(errors="replace"))


def _is_standard_error(stream: IO[str]) -> bool:
    try:
        return stream.fileno() == 2
    except OSError:  # A test's buffer.
        return False
