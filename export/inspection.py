"""Looking into a file by itself, ours or anybody's: what it holds, and what it takes to run it.

The file is opened in a process of its own: it may be damaged in ways that crash, hang or bloat whoever reads it.
"""

from __future__ import annotations

import functools
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leafport import files, process
from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export import worker
from leafport.process import ProcessError
from leafport.targets import registry
from leafport.targets.base import Facts, Runner, TensorFacts, carried_claims

TIME_LIMIT_S = 300.0
_MEMORY_BYTES, _MEMORY_PER_BYTE = 3 * 2**30, 8
_MAX_LABELS_BYTES = 2**24


@dataclass(frozen=True)
class Scaling:
    """A file's own scaling: it takes (pixel - mean) / std, one value of each for all channels or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Photographs (uint8 [N, H, W, 3]) as the file takes them, float32."""
        scaled: np.ndarray = (images - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return scaled


class ScaledRunner:
    """A runner of a file that leafport did not write, fed as that file wants it."""

    def __init__(self, runner: Runner, scaling: Scaling) -> None:
        self.executes = runner.executes
        self.untimed = runner.untimed
        self._runner = runner
        self._scaling = scaling

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        return self._runner.predict(self._scaling.apply(images))


@dataclass(frozen=True)
class Inspection:
    """What was found in a file.

    Attributes:
        target, variant: the target that writes such files, and the variant that the file's name claims, None for none.
        facts: what the file really holds.
        broken: what its name claims and it does not hold, one sentence each.
    """

    path: Path
    target: str
    variant: str | None
    facts: Facts
    broken: tuple[str, ...]

    def contract(self, labels: Path | None = None) -> Contract:
        """What it takes to run the file: the contract it carries, or one made of what it says of itself.

        Args:
            labels: a text file with the label of each output, one a line; without it they are those in the file.

        Raises:
            ModelError: it carries no labels and none are given, there are more or fewer than outputs, or it does not
                take one RGB photograph of a fixed size with the channels last.
        """
        if self.facts.contract is not None and labels is None:
            return self.facts.contract
        height, width = self._image_size()
        names = _read_labels(labels) if labels else self.facts.labels
        outputs = self._outputs()
        if names is None:
            raise ModelError(f"{self.path} carries no labels. Say what its {outputs} outputs mean: --labels FILE.")
        if len(names) != outputs:
            raise ModelError(
                f"{self.path} has {outputs} outputs, and {labels or 'it'} names {len(names)} labels. There must be one "
                "label for each output, in order; models of TensorFlow's ImageNet often have one more, background, "
                "before the others."
            )
        return Contract.from_json(
            {
                "name": re.sub(r"[^a-z0-9_-]+", "-", self.path.stem.lower()).strip("-_")[:64] or "model",
                "version": self.facts.metadata.get("version", "unknown")[:64],
                "task": "class",
                "labels": _distinct(names),
                "image": {"height": height, "width": width},
            },
            where=self.path,
        )

    @property
    def takes_bytes(self) -> bool:
        """Whether it takes pixels as they are, because there is no other way to feed it."""
        return bool(self.facts.inputs) and self.facts.inputs[0].dtype in ("uint8", "RGB image")

    def scaling(self, given: Scaling | None = None) -> Scaling | None:
        """What becomes of a pixel before the file takes it; None where it takes pixels as they are.

        Raises:
            ModelError: the file does not say, and nothing is given; or it takes bytes, and something is.
        """
        dtype = self.facts.inputs[0].dtype if self.facts.inputs else "nothing"
        if self.takes_bytes:
            if given is not None:
                raise ModelError(f"{self.path} takes pixels as they are (uint8): there is nothing to scale.")
            return None
        if given is not None or self.facts.contract is not None:
            return given
        if (said := self.facts.notes.get("normalisation")) is None:
            raise ModelError(
                f"{self.path} takes {dtype} and does not say what becomes of a pixel first. Say it with --scaling "
                "MEAN,STD, which makes (pixel - MEAN) / STD: 0,1 for pixels as they are, 0,255 for 0 to 1, "
                "127.5,127.5 for -1 to 1."
            )
        mean, std = map(tuple, said)
        if {len(mean), len(std)} - {1, 3} or not min(std) > 0:
            raise ModelError(f"{self.path} has no sensible scaling in its metadata (mean {mean}, std {std}).")
        return Scaling(mean, std)

    def require(self, contract: Contract) -> None:
        """Raise ModelError unless the file takes photographs of the contract's size and names as many labels."""
        image, size, outputs = contract.image, self._image_size(), self._outputs()
        if size != (image.height, image.width) or outputs != len(contract.labels):
            raise ModelError(
                f"{self.path} takes {size[1]} x {size[0]} pixels and has {outputs} outputs, "
                f"not {image.width} x {image.height} and {len(contract.labels)}."
            )

    def _outputs(self) -> int | None:
        """How many probabilities there are; a Core ML file may name the class first, which has no shape."""
        return next((tensor.shape[-1] for tensor in self.facts.outputs if tensor.shape), None)

    def _image_size(self) -> tuple[int, int]:
        if len(self.facts.inputs) == 1:
            match self.facts.inputs[0].shape:
                case (None | 1, int(height), int(width), 3):
                    return height, width
        found = ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in self.facts.inputs[:3])
        raise ModelError(
            f"{self.path} takes {found or 'nothing'}. leafport can run files that take one RGB photograph of a fixed "
            "size, [1, height, width, 3]."
        )


def inspect(path: Path, *, time_limit_s: float = TIME_LIMIT_S) -> Inspection:
    """Look into a file of any target.

    Raises:
        ModelError: there is no such file, no target writes such files, or it is damaged.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist.")
    if (name := registry.target_of(path)) is None:
        known = ", ".join(registry.suffixes())
        raise ModelError(f"{path} is no model file that leafport can open: their names end in {known}.")
    with tempfile.TemporaryDirectory(prefix="leafport-inspect-") as scratch:
        try:
            found = process.call(
                "leafport.export.inspection:look",
                {"target": name, "path": str(path)},
                log=Path(scratch) / "inspect.log",
                time_limit_s=time_limit_s,
                memory_limit_bytes=_MEMORY_BYTES + _MEMORY_PER_BYTE * files.size_bytes(path),
            ).value
        except ProcessError as problem:
            reason = re.sub(r" \(log: .*\)$", "", str(problem))
            raise ModelError(f"{path} cannot be read, most likely it is damaged: {reason}.") from None
    return Inspection(path, name, found["variant"], _from_json(found["facts"]), tuple(found["broken"]))


def open_runner(target: str, path: Path, contract: Contract, threads: int, scaling: Scaling | None) -> Runner:
    """A file ready to run, fed with scaled pixels where it wants them so."""
    runner = registry.load(target).runner(path, contract, threads)
    return runner if scaling is None else ScaledRunner(runner, scaling)


def look(target: str, path: str) -> dict[str, Any]:
    """Open a file, in a process of its own: its facts, the variant its name claims, and what is broken of that."""
    module = registry.load(target)
    facts = module.inspect(Path(path))
    variant = registry.claimed(module, Path(path))
    claims = carried_claims if variant is None else functools.partial(module.broken_claims, variant)
    return {"facts": to_json(facts), "variant": variant, "broken": claims(facts, facts.contract)}


def to_json(facts: Facts) -> dict[str, Any]:
    """Facts as JSON values, with the labels and the contract."""
    contract = facts.contract.to_json() if facts.contract else None
    return {**worker.facts_to_json(facts), "labels": facts.labels, "contract": contract}


def _from_json(value: dict[str, Any]) -> Facts:
    """What ``to_json`` made."""

    def tensors(name: str) -> tuple[TensorFacts, ...]:
        return tuple(TensorFacts(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in value[name])

    return Facts(
        inputs=tensors("inputs"),
        outputs=tensors("outputs"),
        ops=value["ops"],
        weights=value["weights"],
        labels=None if value["labels"] is None else tuple(value["labels"]),
        contract=Contract.from_json(value["contract"]) if value["contract"] else None,
        parts=value["parts"],
        metadata=value["metadata"],
        notes=value["notes"],
    )


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise ModelError(f"{path} is larger than 16 MiB: no list of labels.")
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path} is no text in UTF-8: labels stand one a line.") from None


def _distinct(labels: tuple[str, ...]) -> list[str]:
    """Labels that all differ: the second "crane" (ImageNet has a bird and a machine) becomes "crane (2)"."""
    seen: dict[str, int] = {}
    made = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        made.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return made
