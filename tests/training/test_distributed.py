"""Two processes on loopback learn what one does; what goes wrong between hosts is said and ends."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from leafport import images
from leafport.classifier import Classifier
from leafport.errors import LeafportError, UserError
from leafport.export import graph
from leafport.training import distributed
from leafport.training.backbones import BACKBONES
from leafport.training.config import Config
from leafport.training.data.augment import Augmentation
from leafport.training.data.splits import Splits
from leafport.training.distributed import PORT, Cluster, cluster
from leafport.training.stages import FINE_TUNING, HEAD
from leafport.training.train import train

HEAD_EPOCHS, EPOCHS = 40, 6
FAST_COMPILER = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks this small take longer to compile than to train."""
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILER)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file, and beside it the names of the positive class folders."""
    import keras

    keras.utils.set_random_seed(7)
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    BACKBONES["small"].network(32).save_weights(path)
    path.with_name("poisonous.txt").write_text("foxglove\nnightshade\n", encoding="utf-8")
    return path


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def small(photos: Path, out: Path, weights: Path) -> Config:
    return Config(
        photos,
        out,
        positive=weights.with_name("poisonous.txt"),
        safety_loss=1.0,
        backbone="small",
        weights=str(weights),
        image_size=48,
        fine_tuning_size=32,
        batch_size=16,
        head_epochs=HEAD_EPOCHS,
        epochs=EPOCHS,
        patience=EPOCHS,
        unfreeze="all",
        learning_rate=1e-3,
        augmentation=Augmentation(mixup=0.2),
    )


class Second:
    """The same command on a second host, as a user gives it."""

    def __init__(self, config: Config, port: int) -> None:
        options = {
            "out": config.out,
            "positive": config.positive,
            "safety-loss": config.safety_loss,
            "backbone": config.backbone,
            "weights": config.weights,
            "image-size": config.image_size,
            "fine-tuning-size": config.fine_tuning_size,
            "batch-size": config.batch_size,
            "head-epochs": config.head_epochs,
            "epochs": config.epochs,
            "patience": config.patience,
            "unfreeze": config.unfreeze,
            "learning-rate": config.learning_rate,
            "augment": "mixup=0.2",
            "hosts": f"127.0.0.1:{port},127.0.0.1",
            "host-index": 1,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leafport", "train", str(config.data), *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ends(self) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        said, _ = self.process.communicate(timeout=300)
        return self.process.returncode, " ".join(said.split())


@pytest.fixture
def second() -> Iterator[Callable[[Config, int], Second]]:
    started: list[Second] = []

    def start(config: Config, port: int) -> Second:
        started.append(Second(config, port))
        return started[-1]

    yield start
    for host in started:
        host.process.kill()
        host.process.wait()


def both(port: int) -> Cluster:
    return Cluster(("127.0.0.1", "127.0.0.1"), 0, port)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_two_hosts_learn_what_one_does_though_one_is_lost_on_the_way(
    tmp_path: Path, photos: Path, weights: Path, port: int, second: Callable[[Config, int], Second]
) -> None:
    config = small(photos, tmp_path / "two", weights)
    doomed = second(config, port)

    def watch(stage: str, done: int, total: int, note: str) -> None:
        if stage == HEAD and done > 2 * total / HEAD_EPOCHS:
            doomed.process.kill()

    with pytest.raises(LeafportError, match="Another host stopped"):
        train(config, cluster=both(port), progress=watch)
    assert not config.out.exists()

    again = second(config, port)
    train(config, cluster=both(port))
    code, said = again.ends()
    assert code == 0, said
    assert f"{config.out} is written on 127.0.0.1" in said
    assert "Training the head: going on after epoch" in (config.out / "train.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["two"]

    alone = small(photos, tmp_path / "one", weights)
    train(alone, cluster=Cluster(("127.0.0.1",), 0, port))
    runs = alone.out, config.out
    one, two = (Classifier.load(run) for run in runs)
    for expected, found in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    histories = [history(run) for run in runs]
    assert len(histories[0]) == len(histories[1])
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        expected, found = ([float(line[name]) for line in lines] for lines in histories)
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    tuned = [float(line["val_loss"]) for line in histories[0] if line["stage"] == FINE_TUNING]
    assert tuned[-1] == min(tuned)  # What was compared has changed with every step.

    divided = Splits.load(config.out / "splits.json")
    pixels = np.stack([images.read(divided.file(photo), two.contract.image) for photo in divided.test])
    probabilities = two.predict(pixels)
    np.testing.assert_allclose(probabilities, one.predict(pixels), atol=1e-4)
    served = graph.build(two, tmp_path / "graph").function(None)(pixels.astype(np.float32))
    np.testing.assert_allclose(served["probabilities"], probabilities, atol=1e-5)


def test_hosts_with_other_photographs_are_refused(
    tmp_path: Path, photos: Path, weights: Path, port: int, second: Callable[[Config, int], Second]
) -> None:
    elsewhere = tmp_path / "elsewhere" / "plants"
    shutil.copytree(photos, elsewhere)
    (elsewhere / "daisy" / "003.png").unlink()
    other = second(small(elsewhere, tmp_path / "b" / "run", weights), port)
    complaint = r"Host 1 \(127.0.0.1\) differs from host 0 \(127.0.0.1\) in photographs\."
    with pytest.raises(UserError, match=complaint):
        train(small(photos, tmp_path / "a" / "run", weights), cluster=both(port))
    code, said = other.ends()
    assert code == 2
    assert "Host 1 (127.0.0.1) differs from host 0 (127.0.0.1) in photographs." in said
    assert not list((tmp_path / "a").iterdir())
    assert not list((tmp_path / "b").iterdir())


def test_a_host_that_does_not_come_is_not_waited_for_for_ever(
    tmp_path: Path, photos: Path, weights: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 2)
    with pytest.raises(LeafportError, match=rf"2 hosts did not come together at 127\.0\.0\.1:{port} within 2 seconds"):
        train(small(photos, tmp_path / "run", weights), cluster=both(port))


def test_a_port_that_is_taken_is_named(tmp_path: Path, photos: Path, weights: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = taken.getsockname()
        with pytest.raises(LeafportError, match=f"could not join the others at 127.0.0.1:{address[1]}: "):
            train(small(photos, tmp_path / "run", weights), cluster=both(address[1]))


def test_a_batch_that_cannot_be_shared_is_refused(
    tmp_path: Path, photos: Path, weights: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    with pytest.raises(UserError, match=r"batch of 16 photographs .* 3 devices of 1 hosts.* multiple of 3"):
        train(small(photos, tmp_path / "run", weights), cluster=Cluster(("127.0.0.1",), 0, port))


@pytest.mark.parametrize(
    ("hosts", "index", "environment", "expected"),
    [
        ("a:6000,b", 1, {}, Cluster(("a", "b"), 1, 6000)),
        ("a, b ,c", None, {"SLURM_PROCID": "2"}, Cluster(("a", "b", "c"), 2, PORT)),
        ("a,b", None, {"LEAFPORT_HOST_INDEX": "0", "SLURM_PROCID": "1"}, Cluster(("a", "b"), 0, PORT)),
        ("a,b", 1, {"LEAFPORT_HOST_INDEX": "0"}, Cluster(("a", "b"), 1, PORT)),
        ("[::1]:6000", None, {}, Cluster(("::1",), 0, 6000)),
    ],
)
def test_hosts_are_named(hosts: str, index: int | None, environment: dict[str, str], expected: Cluster) -> None:
    assert cluster(hosts, index, environment) == expected


@pytest.mark.parametrize(
    ("hosts", "index", "environment", "complaint"),
    [
        ("a,b", None, {}, "Which of the 2 hosts is this"),
        ("a,b", 2, {}, "host 2, but --hosts names 2"),
        ("a,b", None, {"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'"),
        ("a,,b", 0, {}, "'' is no host"),
        ("a:port", 0, {}, "'a:port' is no host"),
        ("me@a", 0, {}, "'me@a' is no host"),
        ("a/b", 0, {}, "'a/b' is no host"),
    ],
)
def test_hosts_that_cannot_be_are_refused(
    hosts: str, index: int | None, environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        cluster(hosts, index, environment)
