"""A folder to measure with on another machine, where leafport is not: files, photographs, answers, and a program.

The program there writes a report of the same schema, which ``leafport report`` merges with others.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leafport import __version__, files, process, sample_apps
from leafport.benchmarks import bench
from leafport.benchmarks.bench import Candidate
from leafport.benchmarks.photographs import Progress, choose, decode
from leafport.benchmarks.report import ContractRecord
from leafport.classifier import Classifier
from leafport.errors import OutputError, TargetError
from leafport.export import manifest as manifests

SHARED = ("timing.py", "figures.py")


@dataclass(frozen=True)
class Kit:
    """A kind of kit.

    Attributes:
        artifacts: targets or artifacts that it can measure.
        source, program: its program, here and under the name it has in the kit.
        where: the machine it is for, as people say it.
        readme: how to use it, where no app says so.
        app: the sample app that it is a part of.
    """

    artifacts: tuple[str, ...]
    source: str
    program: str
    where: str
    readme: str = ""
    app: str | None = None


KITS: Mapping[str, Kit] = {
    "tx2": Kit(sample_apps.APPS["tx2"].artifacts, "tx2.py", "bench.py", "the board", app="tx2"),
    "macos": Kit(
        ("coreml",),
        "macos.py",
        "measure.py",
        "a Mac",
        "# Measure {name} on a Mac\n\n"
        "    python3 -m pip install coremltools numpy pillow\n"
        "    python3 measure.py\n\n"
        "It takes some minutes, needs no network, and writes report.json. `--compute-units ALL CPU_ONLY` measures\n"
        "with each of them. Where leafport is, `leafport report report.json --out REPORT` makes a page of it, and\n"
        "merges it with reports of other machines.\n\n"
        "The photographs in this folder are yours: give it to nobody who should not have them.\n",
    ),
}


def write(
    kind: str,
    exports: Path,
    data: Path | None,
    out: Path,
    *,
    artifacts: Sequence[str] = (),
    limit: int | None = None,
    classifier: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Write the kit called ``kind`` into the folder ``out``, whole or not at all; returns its program.

    The photographs lie there as the PNG files of the size that the files take, so that nothing there resizes them.
    The other arguments are those of ``bench.bench``, and so are the errors.

    Raises:
        TargetError: there is no such kit, or no file for it.
        OutputError: ``out`` is there already, or cannot be written to.
    """
    if kind not in KITS:
        raise TargetError(f"There is no kit {kind!r}. There are: {', '.join(KITS)}.")
    if out.exists():
        raise OutputError(f"{out} is there already. Name another folder, or remove it.")
    kit = KITS[kind]
    subject = bench.exported(exports, artifacts or _there(kit, exports), classifier)
    contract, (keras, *candidates) = subject.contract, subject.candidates
    for one in candidates:
        if not {one.head["target"], one.head["name"]} & set(kit.artifacts):
            raise TargetError(f"A {kind} kit measures {', '.join(kit.artifacts)}; {one.head['name']} is none of them.")
        if one.path is None:
            raise TargetError(f"{one.head['name']} cannot go into a kit: {one.head['invalid_reason']}.")
    photographs = choose(data, subject.splits, contract, limit=limit, progress=progress)
    with files.staged(out) as staging:
        staging.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="leafport-kit-") as scratch:
            pixels = Path(scratch) / "pixels.npy"
            decode(photographs.paths, contract.image, pixels, progress=progress)
            _save_photographs(pixels, staging / "photographs", progress)
            process.call(
                "leafport.benchmarks.kit:answers",
                {"run": str(keras.path), "pixels": str(pixels), "out": str(staging / "answers.npy")},
                log=Path(scratch) / "answers.log",
            )
        value = {
            "leafport": __version__,
            "contract": ContractRecord.of(contract).model_dump(mode="json"),
            "data": photographs.data.model_dump(mode="json"),
            "labels": contract.labels,
            "positive_indices": contract.positive_indices if contract.safety else [],
            "truth": photographs.truth.tolist(),
            "files": [_with_file(one, staging) for one in candidates],
        }
        files.write_json(staging / "kit.json", value)
        kits = resources.files("leafport.benchmarks.kits")
        for name in SHARED:
            (staging / name).write_bytes((kits / name).read_bytes())
        (staging / kit.program).write_bytes((kits / kit.source).read_bytes())
        if kit.app:
            sample_apps.fill(kit.app, exports, staging, [one.head["name"] for one in candidates])
        else:
            (staging / "README.md").write_text(kit.readme.format(name=contract.name), encoding="utf-8")
    return out / kit.program


def _there(kit: Kit, exports: Path) -> list[str]:
    """Which of the artifacts that a kit measures an export has."""
    made = manifests.read(exports).artifacts
    wanted = [name for name in made if made[name].path and {name, made[name].target} & set(kit.artifacts)]
    if not wanted:
        raise TargetError(f"{exports} has none of {', '.join(kit.artifacts)}: export one for this kit.")
    return wanted


def answers(run: str, pixels: str, out: str) -> None:
    """In a process of its own: save the classifier's probabilities of photographs, float32 [N, classes]."""
    np.save(out, Classifier.load(run).predict(np.load(pixels, mmap_mode="r")))


def _save_photographs(pixels: Path, folder: Path, progress: Progress) -> None:
    folder.mkdir()
    stack = np.load(pixels, mmap_mode="r")
    for index, image in enumerate(stack):
        Image.fromarray(np.asarray(image)).save(folder / f"{index:05}.png")
        progress("Writing photographs", index + 1, len(stack))


def _with_file(candidate: Candidate, kit: Path) -> dict[str, Any]:
    """Copy a file into the kit; what the kit says of it."""
    assert candidate.path is not None and candidate.contract is not None
    copy: Callable[[Path, Path], Any] = shutil.copytree if candidate.path.is_dir() else shutil.copyfile
    relative = Path("files") / candidate.path.name
    (kit / relative.parent).mkdir(exist_ok=True)
    copy(candidate.path, kit / relative)
    safety = candidate.contract.safety
    head = {key: candidate.head[key] for key in ("name", "target", "variant", "sha256", "needs")}
    nodes = candidate.head["nodes"]
    return {
        **head,
        "nodes": nodes.model_dump(mode="json") if nodes else None,
        "path": relative.as_posix(),
        "size_bytes": files.size_bytes(candidate.path),
        "zipped_bytes": files.zipped_bytes(candidate.path),
        "safety": safety.model_dump(mode="json") if safety else None,
    }
