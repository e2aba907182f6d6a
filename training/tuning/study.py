"""What a search has tried: study.json, and its picture."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pydantic import TypeAdapter

from leafport import files
from leafport.errors import OutputError
from leafport.training.evaluation.plots import LEAF, MUTED, SIZE, STYLE
from leafport.training.tuning.search import Parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STUDY_FILE = "study.json"
PLOT_FILE = "plots/study.png"
SCHEMA_VERSION = 1

Objective = Literal["loss", "accuracy", "false-alarms"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_FIGURES = {"loss": "loss", "accuracy": "accuracy", "false-alarms": "false_alarm_rate"}
_NAMES = {
    "loss": "validation cross-entropy",
    "accuracy": "validation top-1 accuracy",
    "false-alarms": "validation false-alarm rate",
}


@dataclass(frozen=True)
class Trial:
    """One training with parameters of its own. All figures are of the validation photographs.

    Attributes:
        state: ``running`` also of one that was killed, which is then trained on.
        loss: the cross-entropy in nats of its best epoch, which the model would be left at.
        accuracy: the top-1 accuracy of that epoch.
        false_alarm_rate: at the threshold that promises the required recall; only where this is the objective.
        epochs: how many it took, of all stages.
        seconds: how long its process lived, or the last one if it was interrupted.
        reason: why it failed.
    """

    number: int
    parameters: Parameters
    state: Literal["running", "done", "failed"] = "running"
    loss: float | None = None
    accuracy: float | None = None
    false_alarm_rate: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Study:
    """A search and all its trials.

    Attributes:
        request: JSON values: the objective, the space, and all else that decides what is tried and what it comes to.
    """

    request: dict[str, Any]
    trials: tuple[Trial, ...] = ()

    @property
    def objective(self) -> Objective:
        found: Objective = self.request["objective"]
        return found

    def value(self, trial: Trial) -> float | None:
        """The objective's figure; None of a trial that is not done."""
        found: float | None = getattr(trial, _FIGURES[self.objective])
        return found

    def cost(self, trial: Trial) -> float | None:
        """The same as a number that is to be small."""
        value = self.value(trial)
        return -value if value is not None and self.objective == "accuracy" else value

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """All trials, the best first; of equally good ones that with the smaller loss, then the earlier one."""

        def rank(trial: Trial) -> tuple[float, float]:
            cost = self.cost(trial)
            return math.inf if cost is None else cost, math.inf if trial.loss is None else trial.loss

        return tuple(sorted(self.trials, key=rank))

    @property
    def best(self) -> Trial | None:
        """The best trial that is done."""
        return next((trial for trial in self.ranked if trial.state == "done"), None)

    def with_trial(self, trial: Trial) -> Self:
        """The study with ``trial`` added, or in the place of that with the same number."""
        return replace(self, trials=(*self.trials[: trial.number], trial, *self.trials[trial.number + 1 :]))

    def save(self, out: Path) -> None:
        """Write study.json. Raises OutputError."""
        best = self.best
        files.write_json(
            out / STUDY_FILE,
            {
                "schema_version": SCHEMA_VERSION,
                "request": self.request,
                "best": None if best is None else best.number,
                "trials": [{**asdict(trial), "value": self.value(trial)} for trial in self.trials],
            },
        )

    def resumed(self, out: Path) -> Self:
        """This study with the trials that study.json holds.

        Raises:
            OutputError: study.json is of another study, or damaged.
        """
        value = files.read_json(out / STUDY_FILE, error=OutputError)
        try:
            earlier = dict(value["request"])
            trials = _TRIALS.validate_python(
                [{k: v for k, v in one.items() if k != "value"} for one in value["trials"]]
            )
            if value["schema_version"] != SCHEMA_VERSION or [one.number for one in trials] != list(range(len(trials))):
                raise ValueError("another schema, or trials are missing")
        except (ValueError, KeyError, TypeError, AttributeError) as problem:  # A ValidationError is a ValueError.
            raise OutputError(
                f"{out / STUDY_FILE} is no study this leafport wrote ({type(problem).__name__}). Give another --out, "
                "or begin anew with --overwrite."
            ) from None
        different = [name for name in {**earlier, **self.request} if earlier.get(name) != self.request.get(name)]
        if different:
            raise OutputError(
                f"{out} holds a study that was asked for something else ({', '.join(different)}). Go on with the "
                "command that began it, give another --out, or begin anew with --overwrite."
            )
        return replace(self, trials=trials)


def draw(path: Path, study: Study) -> None:
    """Write a PNG: the value of every trial that is done, in their order and over each parameter; the best is green."""
    import matplotlib
    from matplotlib.figure import Figure

    done = [trial for trial in study.trials if trial.state == "done"]
    if not done:
        return
    space = study.request["space"]
    columns = min(3, 1 + len(space))
    rows = math.ceil((1 + len(space)) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for panel in panels[:, 0]:
            panel.set_ylabel(_NAMES[study.objective])
        for name, panel in zip(["trial", *space], panels.flat, strict=False):
            places = [_place(panel, trial, name, space) for trial in done]
            values = [study.value(trial) for trial in done]
            first = [trial is study.best for trial in done]
            colours = [LEAF if one else MUTED for one in first]
            panel.scatter(places, values, s=[70 if one else 25 for one in first], color=colours, zorder=3)
            panel.set_xlabel(name)
        for panel in panels.flat[1 + len(space) :]:
            panel.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


def _place(panel: Axes, trial: Trial, name: str, space: dict[str, Any]) -> float:
    """Where a trial stands on the axis of a parameter, which this sets up, or of the trials' numbers."""
    if name == "trial":
        panel.locator_params(axis="x", integer=True)
        return trial.number
    domain, value = space[name], trial.parameters[name]
    if "values" in domain:
        choices = [str(choice) for choice in domain["values"]]
        panel.set_xticks(range(len(choices)), choices, rotation=20 if max(map(len, choices)) > 8 else 0)
        panel.set_xlim(-0.5, len(choices) - 0.5)
        return choices.index(str(value))
    if domain["log"]:
        panel.set_xscale("log")
    return float(value)


_TRIALS = TypeAdapter(tuple[Trial, ...])
