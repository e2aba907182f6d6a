"""A search over settings: many trainings of the same photographs, each with other settings, judged by validation.

The test split is not there to choose by, and a trial could not if it wanted to: the split it is given has none. Each
trial runs in a process of its own, so that one that diverges or runs out of memory costs only itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from leafport import files, process
from leafport.classifier import Classifier
from leafport.errors import DataError, LeafportError, ModelError, OutputError, UserError
from leafport.training import checkpoint, stages, task, train
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.evaluation.selection import SPLITS_FILE
from leafport.training.loop import Progress
from leafport.training.task import Task
from leafport.training.tuning import search as searching
from leafport.training.tuning.search import Choices, Parameters, Search, Space
from leafport.training.tuning.study import PLOT_FILE, STUDY_FILE, Objective, Study, Trial, draw

LOGS = "logs"
COMMON = (
    "data",
    "task",
    "positive",
    "positive_name",
    "negative_name",
    "splits",
    "validation",
    "test",
    "seed",
    "required_recall",
)
"""Settings in which trials may not differ, since they share one split and one question."""

_LOCK = "lock"
_PROGRESS_FILE = "progress.json"
_POLL_SECONDS = 0.25
_CONFIG = TypeAdapter(Config)

Configure = Callable[[Parameters], Config]
"""Settings with some parameters of a space in them; with none, those that trials share."""


def tune(
    configure: Configure,
    space: Space,
    out: Path,
    *,
    trials: int = 20,
    search: Search = "tpe",
    objective: Objective = "loss",
    overwrite: bool = False,
    progress: Progress | None = None,
    watch: Callable[[Study], None] | None = None,
) -> Study:
    """Train with settings out of ``space`` until there are so many trials, and say what came of each.

    Writes study.json (every trial), splits.json (train the best one with this), plots/study.png and logs/ to ``out``.
    A search that was interrupted or killed goes on where it was, the trial that was running after its last epoch; so
    does a finished one that is asked for more trials.

    Args:
        configure: makes the settings of a trial; ``out`` in them is not used.
        trials: how many there shall be in the end; fewer where the space has no more.
        objective: ``loss`` and ``accuracy`` are those of the best epoch on the validation photographs,
            ``false-alarms`` the share of negatives among them that a threshold calls positive which promises the
            required recall.
        progress: told of the trial that is running.
        watch: called with the study whenever a trial begins or ends.

    Raises:
        UserError: settings or photographs that cannot be used, an ``out`` that holds something else, or a study that
            was asked for something else.
        LeafportError: not one trial succeeded.
    """
    base = configure({})
    _check(configure, base, space)
    _check_out(out, base)
    work = out.with_name(f".{out.name}.tuning")
    with files.writable(out):
        work.mkdir(parents=True, exist_ok=True)
    with files.locked(work / _LOCK, f"Another search is writing {out}. Wait for it, or give another --out."):
        try:
            if overwrite:
                for path in (out, *work.iterdir()):
                    if path.name != _LOCK:
                        files.remove(path)
            study, question = _begin(base, space, out, search, objective, progress or _nobody)
            while (trial := _next(study, space, trials, search, base.seed)) is not None:
                study = study.with_trial(trial)
                study.save(out)
                (watch or _nobody)(study)
                study = study.with_trial(_finished(trial, configure, study, question, out, work, progress or _nobody))
                study.save(out)
                (watch or _nobody)(study)
        except BaseException:
            if not (out / STUDY_FILE).exists():
                files.remove(work)
            raise
        draw(out / PLOT_FILE, study)
        files.remove(work)
    if study.best is None and study.trials:
        raise LeafportError(f"Not one trial succeeded. The first: {study.trials[0].reason}")
    return study


def attempt(
    config: dict[str, Any], splits: str, work: str, objective: Objective, positive_labels: list[str]
) -> dict[str, Any]:
    """One trial, in a process of its own; takes and returns JSON values. What it learns on the way is kept in ``work``.

    Raises:
        UserError: see ``train``. LeafportError: training diverged.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings, folder = _CONFIG.validate_python(config), Path(work)
    progress = _writing(folder / _PROGRESS_FILE)
    divided = _untested(Splits.load(Path(splits)), settings)
    contract = train.contract_of(settings, divided)
    with checkpoint.working(settings.out) as unfinished:
        trained = stages.run(
            settings,
            divided,
            contract,
            unfinished.checkpoints(train.request_of(settings, divided, positive_labels), drop=True),
            unfinished.folder,
            progress,
            check_space=lambda size: files.require_space(settings.out, size),
            positive_labels=positive_labels,
            shared=folder,
        )
        best = trained.best
        found = {"loss": best.val_loss, "accuracy": best.val_accuracy, "epochs": len(trained.history)}
        if objective == "false-alarms":
            question = Task(settings.task, divided.label_of, tuple(positive_labels))
            learned = Classifier(trained.model, contract)
            classifier, _ = train.calibrated(learned, divided, question, settings.required_recall, progress)
            assert classifier.contract.safety is not None
            found["false_alarm_rate"] = classifier.contract.safety.false_alarm_rate
    return found


def _begin(
    base: Config, space: Space, out: Path, search: Search, objective: Objective, progress: Progress
) -> tuple[Study, Task]:
    """The study as it stands, new or not, and what is asked about its photographs, which are split once."""
    if known := (out / STUDY_FILE).exists():
        divided = Splits.load(out / SPLITS_FILE)
        question = task.define(
            base.task,
            divided.folders,
            base.positive,
            negative_name=base.negative_name,
            positive_name=base.positive_name,
        )
        divided = replace(divided, label_of=question.label_of)
    else:
        divided, question = train.divide(base, progress)
    given = None if base.splits is None else Splits.load(base.splits)
    asked = {
        "objective": objective,
        "search": search,
        "space": {name: asdict(domain) for name, domain in space.items()},
        **{
            name: value
            for name, value in train.request_of(base, divided, question.positive_labels).items()
            if name != "versions"
        },
        "splits": given and files.sha256_json([[photo.sha256 for photo in side] for side in given.sides.values()]),
        "positive_labels": question.positive_labels,
        "required_recall": base.required_recall,
    }
    study = Study(json.loads(json.dumps(asked)))
    if objective == "false-alarms" and not question.positive_labels:
        raise DataError("False alarms need positive photographs. Give --positive FILE, or another --objective.")
    if known:
        study = study.resumed(out)
        _check_unchanged(_untested(divided, base), progress)
    else:
        with files.staged(out) as staging:
            staging.mkdir()
            divided.save(staging / SPLITS_FILE)
            study.save(staging)
    return study, question


def _next(study: Study, space: Space, trials: int, search: Search, seed: int) -> Trial | None:
    """The trial that was interrupted, or a new one; None if there are enough, or nothing is left to try."""
    for trial in study.trials:
        if trial.state == "running":
            return trial
    if len(study.trials) >= trials:
        return None
    tried = [(trial.parameters, study.cost(trial)) for trial in study.trials]
    parameters = searching.propose(space, tried, search, seed)
    return None if parameters is None else Trial(len(study.trials), parameters)


def _finished(
    trial: Trial, configure: Configure, study: Study, question: Task, out: Path, work: Path, progress: Progress
) -> Trial:
    """The trial with what came of it.

    Raises:
        UserError: for what would stop the other trials too: photographs, the disk, or settings when none has worked.
    """
    name = f"trial-{trial.number:03}"
    try:
        config = configure(trial.parameters)
        train.check(config)
    except UserError as problem:  # Values that do not go together.
        return replace(trial, state="failed", reason=str(problem))
    arguments = {
        "config": _CONFIG.dump_python(replace(config, out=work / name), mode="json"),
        "splits": str(out / SPLITS_FILE),
        "work": str(work),
        "objective": study.objective,
        "positive_labels": list(question.positive_labels),
    }
    try:
        with _reading(work / _PROGRESS_FILE, progress):
            outcome = process.call(f"{__name__}:attempt", arguments, log=out / LOGS / f"{name}.log")
    except UserError as problem:
        if not isinstance(problem, ModelError) or not study.best:
            if len(study.trials) == 1:  # A search that could not begin leaves nothing to go on from.
                files.remove(out)
            raise
        return replace(trial, state="failed", reason=str(problem))
    except LeafportError as problem:
        files.remove(checkpoint.folder_for(work / name))
        seconds = problem.seconds if isinstance(problem, process.ProcessError) else 0.0
        return replace(trial, state="failed", seconds=seconds, reason=str(problem))
    return replace(trial, state="done", seconds=outcome.seconds, **outcome.value)


def _check(configure: Configure, base: Config, space: Space) -> None:
    """Try every value that was named, and the ends of each range: mistakes should show before anything is trained."""
    if not space:
        raise UserError("There is nothing to vary. Name something.")
    ends = {name: one.values if isinstance(one, Choices) else (one.low, one.high) for name, one in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            config = configure({**first, name: value})
            train.check(config)
            if fixed := [one for one in COMMON if getattr(config, one) != getattr(base, one)]:
                raise UserError(f"{', '.join(fixed)} must be the same in all trials, which {name} = {value} changes.")


def _check_out(out: Path, base: Config) -> None:
    if out.resolve().is_relative_to(base.data.resolve()):
        raise OutputError(f"{out} lies inside the photographs' folder {base.data}. Write elsewhere.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not all((out / name).is_file() for name in (STUDY_FILE, SPLITS_FILE)):
        raise OutputError(f"{out} exists and is no study: it is left alone. Write elsewhere.")


def _check_unchanged(divided: Splits, progress: Progress) -> None:
    photos = [*divided.train, *divided.validation]
    for done, photo in enumerate(photos, 1):
        path = divided.file(photo)
        if not path.is_file() or files.sha256(path) != photo.sha256:
            raise DataError(
                f"{path} is missing or has changed since the study began. Put it back, or begin anew with --overwrite."
            )
        progress("Checking photographs", done, len(photos), "")


def _untested(divided: Splits, config: Config) -> Splits:
    """All of a split that a search may see, where its photographs are now."""
    return replace(divided, root=config.data.resolve(), test=())


def _nobody(*_: Any) -> None:
    pass


def _writing(path: Path) -> Progress:
    """Leaves what it is told in a file."""

    def report(*values: Any) -> None:
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(values))
        draft.replace(path)

    return report


@contextlib.contextmanager
def _reading(path: Path, progress: Progress) -> Iterator[None]:
    """Tells what another process leaves in a file."""
    over = threading.Event()
    files.remove(path)

    def follow() -> None:
        before = None
        while not over.wait(_POLL_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                values = json.loads(path.read_text())
                if values != before:
                    progress(*values)
                before = values

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
