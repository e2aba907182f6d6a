"""Where a training stands after an epoch, so that one that was killed goes on as if nothing had happened.

A training works in a hidden folder beside the one it is to write. What lies there is used by the next training that is
asked for the very same thing, and removed once the classifier stands in its place.

A checkpoint holds everything the next epoch depends on: the model's variables (with the states of its random numbers),
the optimiser's, and what early stopping remembers. The photographs' order needs none: it is a function of the seed
and the step (``data.sampling``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leafport import files
from leafport.errors import OutputError, UserError

REQUEST_FILE = "request.json"
_LOCK = "lock"
_STATE = "state"
_GROUPS = ("model", "optimiser", "best")
_LARGEST_SHARE = 0.05

log = logging.getLogger("leafport.training")


@dataclass(frozen=True)
class Checkpoint:
    """One stage after some of its epochs.

    Attributes:
        state: JSON values: the history so far, what early stopping remembers, whether the stage is done.
        model, optimiser: the values of their variables, in Keras's order; no optimiser once the stage is done.
        best: the weights of the best epoch so far; none where no epoch counted.
    """

    state: dict[str, Any]
    model: Sequence[np.ndarray]
    optimiser: Sequence[np.ndarray] = ()
    best: Sequence[np.ndarray] = ()


class Checkpoints:
    """The checkpoint files of one training, one a stage, in a folder.

    Writing one takes a while for large networks, so that after quick epochs some are left out: together they may take
    a twentieth of the time. A training then goes on from an earlier epoch, and ends the same.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._took = self._written = 0.0

    def load(self, stage: str) -> Checkpoint | None:
        """The last checkpoint of a stage; None without one, or where it is damaged."""
        path = self.path(stage)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                state = json.loads(str(stored[_STATE]))
                groups = {
                    group: [stored[f"{group}-{index}"] for index in range(state["counts"][group])] for group in _GROUPS
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as problem:
            log.warning("%s cannot be read and is left aside (%s)", path.name, problem)
            return None
        return Checkpoint(state["values"], **groups)

    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return self._took <= _LARGEST_SHARE * (time.monotonic() - self._written)

    def save(self, stage: str, checkpoint: Checkpoint) -> None:
        """Replace a stage's checkpoint, whole or not at all. Raises OutputError."""
        began = time.monotonic()
        groups = {group: getattr(checkpoint, group) for group in _GROUPS}
        arrays: dict[str, Any] = {
            f"{group}-{index}": array for group, values in groups.items() for index, array in enumerate(values)
        }
        counts = {group: len(values) for group, values in groups.items()}
        state = np.array(json.dumps({"values": checkpoint.state, "counts": counts}))
        with files.staged(self.path(stage)) as staging, staging.open("wb") as stream:
            np.savez(stream, **{_STATE: state, **arrays})
        self._written = time.monotonic()
        self._took = self._written - began

    def path(self, stage: str) -> Path:
        """The file of a stage's checkpoint."""
        return self._folder / f"{stage.lower().replace(' ', '-')}.npz"


class Work:
    """The hidden folder a training works in; see ``working``."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self._out = folder, out

    def checkpoints(self, request: dict[str, Any], *, drop: bool) -> Checkpoints:
        """The checkpoints of a training that is asked for ``request`` (JSON values).

        Raises:
            OutputError: those that are there are of another request, and are not to be dropped.
        """
        asked = json.loads(json.dumps(request))
        earlier = self._earlier()
        if earlier is not None and earlier != asked:
            different = [name for name in {**earlier, **asked} if earlier.get(name) != asked.get(name)]
            if not drop:
                raise OutputError(
                    f"An unfinished training for {self._out} was asked for something else ({', '.join(different)}). "
                    "Finish it with the command that began it, write elsewhere, or drop it with --overwrite."
                )
            for path in self.folder.glob("*.npz"):
                files.remove(path)
        files.write_json(self.folder / REQUEST_FILE, asked)
        return Checkpoints(self.folder)

    @property
    def worth_keeping(self) -> bool:
        """Whether anything was learned that the next attempt can go on from."""
        return any(self.folder.glob("*.npz"))

    def _earlier(self) -> dict[str, Any] | None:
        if not self.worth_keeping:
            return None
        try:
            value = files.read_json(self.folder / REQUEST_FILE)
        except UserError:
            return {}
        return value if isinstance(value, dict) else {}


def folder_for(out: Path) -> Path:
    """The hidden folder in which a training for ``out`` works."""
    return out.with_name(f".{out.name}.training")


@contextlib.contextmanager
def working(out: Path) -> Iterator[Work]:
    """Work on what is to stand at ``out``, one process at a time.

    The folder goes when the block succeeds, and stays when it does not and something was learned.

    Raises:
        OutputError: the place cannot be written, or another training is at it.
    """
    folder = folder_for(out)
    with files.writable(out):
        folder.mkdir(parents=True, exist_ok=True)
    work = Work(folder, out)
    with files.locked(folder / _LOCK, f"Another training is writing {out}. Wait for it, or give another --out."):
        try:
            yield work
        except BaseException:
            if not work.worth_keeping:
                files.remove(folder)
            raise
        files.remove(folder)
