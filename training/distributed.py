"""Training on several machines at once, or on all accelerators of one: data parallelism of Keras on JAX.

Every host is given the same command. Each finds the same split for itself. Then a child process, in which Keras runs on
JAX, joins those of the other hosts and goes through the stages of training with them: each reads its rows of every
batch (``data.shares``), and the gradients are those of the whole batch. The first host's child keeps the checkpoints
that any training keeps. When it is done its parent finds every stage finished in them, and goes on with TensorFlow as
if it had trained alone: a model's variables do not know which backend trained them.

A process of its own, because Keras's backend is chosen when it is imported, and because JAX ends the whole process
when another host is lost.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import TypeAdapter

from leafport import files, process
from leafport.contract import Contract
from leafport.errors import LeafportError, UserError
from leafport.process import ProcessError
from leafport.training import stages
from leafport.training.checkpoint import Checkpoint, Checkpoints
from leafport.training.config import Config
from leafport.training.data.splits import Splits
from leafport.training.loop import Progress

PORT = 5123
HOSTS_VARIABLE = "LEAFPORT_HOSTS"
INDEX_VARIABLES = ("LEAFPORT_HOST_INDEX", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
"""Where a scheduler says which of the hosts this is: leafport's own, Slurm's, Open MPI's, and Kubernetes's."""

JOIN_SECONDS = 600
HEARTBEAT_SECONDS = 60
WAITING = "Waiting for the other hosts"
CHUNK_BYTES = 2**26
_LOST = re.compile(r"Gloo \S+ failed|nccl\w*Error|JAX distributed service detected fatal errors", re.IGNORECASE)

log = logging.getLogger("leafport.training")


@dataclass(frozen=True)
class Cluster:
    """The hosts that train together, and which of them this is. The first listens at ``port`` and writes the result."""

    hosts: tuple[str, ...]
    index: int
    port: int = PORT

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def address(self) -> str:
        """Where the hosts meet."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def place(self, out: Path) -> Path:
        """What this host's work is for: ``out`` on the first. Others may share its disk, but not its work."""
        return out if self.first else out.with_name(f"{out.name}.host{self.index}")


def cluster(hosts: str, index: int | None, environment: Mapping[str, str] = os.environ) -> Cluster:
    """Read ``host0:5123,host1``: every host, the first with the port at which the others find it, or without.

    Args:
        index: which of them this is; None: what INDEX_VARIABLES say, and for a single host it needs no saying.

    Raises:
        UserError: a name that is none, or an index that is missing or wrong.
    """
    names, ports = [], []
    for text in hosts.split(","):
        try:
            split = urlsplit(f"//{text.strip()}")
            name, port = split.hostname, split.port
        except ValueError:
            name = port = None
        if not name or split.netloc != text.strip() or split.username is not None:
            raise UserError(f"--hosts: {text.strip()!r} is no host. Name every host: --hosts host0:{PORT},host1")
        names.append(name)
        ports.append(port)
    if index is None:
        index = _index(environment, len(names))
    if not 0 <= index < len(names):
        raise UserError(
            f"This is host {index}, but --hosts names {len(names)}, which are counted from 0. Name every host once."
        )
    return Cluster(tuple(names), index, ports[0] or PORT)


def _index(environment: Mapping[str, str], count: int) -> int:
    for name in INDEX_VARIABLES:
        if text := environment.get(name):
            if not text.isdecimal():
                raise UserError(f"{name} is {text!r}; it takes the number of this host, from 0 to {count - 1}.")
            return int(text)
    if count == 1:
        return 0
    raise UserError(
        f"Which of the {count} hosts is this? Give --host-index 0 to {count - 1}, in the order of --hosts, or set "
        f"{INDEX_VARIABLES[0]}."
    )


def jax_version() -> str:
    """Which JAX is installed. Raises UserError where there is none."""
    try:
        return importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("Training on several hosts takes JAX: pip install 'leafport[train-distributed]'") from None


def learn(
    cluster: Cluster,
    config: Config,
    splits_file: Path,
    contract: Contract,
    request: dict[str, Any],
    work: Path,
    log_file: Path,
    progress: Progress,
    *,
    positive_labels: Sequence[str],
) -> None:
    """Go through all stages with the other hosts; the first one's checkpoints in ``work`` then hold every stage, done.

    Args:
        request: what decides what is learned, which must be the same on all hosts.
        log_file: receives what the child logs and prints; appended to.

    Raises:
        UserError: a batch cannot be shared, or the hosts were asked for different things.
        LeafportError: a host did not come, stopped or was lost, or training diverged.
    """
    joined = False

    def hear(stage: str, done: int, total: int, note: str) -> None:
        nonlocal joined
        joined = joined or stage != WAITING or done == total
        progress(stage, done, total, note)

    printed = log_file.stat().st_size if log_file.exists() else 0
    arguments = {
        "cluster": asdict(cluster),
        "config": TypeAdapter(Config).dump_python(config, mode="json"),
        "splits_file": str(splits_file),
        "contract": contract.to_json(),
        "request": request,
        "work": str(work),
        "positive_labels": list(positive_labels),
        "join_seconds": JOIN_SECONDS,
    }
    try:
        process.call(
            f"{__name__}:take_part",
            arguments,
            log=log_file,
            environment={"KERAS_BACKEND": "jax", "no_grpc_proxy": ",".join(cluster.hosts)},
            on_report=hear,
        )
    except ProcessError as problem:
        with log_file.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(printed)
            said = stream.read()
        problem.add_note(said)
        if not joined:
            raise LeafportError(_apart(cluster, problem, said)) from problem
        if _LOST.search(said):
            raise LeafportError(
                "Another host stopped, or cannot be reached any more; its own message says why. Give the same command "
                "on every host again: it goes on after the last epoch that was kept."
            ) from problem
        raise


def _apart(cluster: Cluster, problem: ProcessError, said: str) -> str:
    """Why the hosts did not come together."""
    if "DEADLINE_EXCEEDED" not in said:
        reason, _, _ = str(problem).partition(" (log: ")
        hint = " The port may be taken: name another in --hosts." if cluster.first else ""
        return f"This host could not join the others at {cluster.address}: {reason.rstrip('.')}.{hint}"
    return (
        f"The {len(cluster.hosts)} hosts did not come together at {cluster.address} within {JOIN_SECONDS} seconds. "
        "Give the same command on every host, each with its own --host-index, and see that the others can reach this "
        "port of the first."
    )


def take_part(
    cluster: dict[str, Any],
    config: dict[str, Any],
    splits_file: str,
    contract: dict[str, Any],
    request: dict[str, Any],
    work: str,
    positive_labels: list[str],
    join_seconds: int,
) -> None:
    """In the child: join the other hosts, and go through the stages with them. The arguments are ``learn``'s, as JSON.

    Raises:
        UserError: a batch cannot be shared, or the hosts were asked for different things.
        LeafportError: training diverged.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    us = Cluster(**{**cluster, "hosts": tuple(cluster["hosts"])})
    asked = TypeAdapter(Config).validate_python(config)
    _join(us, join_seconds)
    _check(us, request, asked.batch_size)

    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # It prepares photographs here; accelerators' memory is JAX's.
    _distribute()
    stages.run(
        asked,
        Splits.load(Path(splits_file)),
        Contract.from_json(contract),
        _Shared(Path(work), us.first),
        Path(work),
        process.report,
        check_space=lambda wanted: files.require_space(asked.out, wanted) if us.first else None,
        positive_labels=positive_labels,
    )
    _leave()


def _join(us: Cluster, seconds: int) -> None:
    """Meet the other hosts' children; from then on JAX knows all their devices."""
    import jax  # Before Keras, whose import leaves JAX out where nothing has imported it yet (leafport.process).

    process.report(WAITING, 0, len(us.hosts), "")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # ``keras.distribution.initialize`` does the same, but leaves JAX's time limits as they are.
    jax.distributed.initialize(
        us.address,
        len(us.hosts),
        us.index,
        cluster_detection_method="deactivate",  # In a Slurm job it would give each process one accelerator only.
        coordinator_bind_address=us.address if us.first and _is_loopback(us.hosts[0]) else None,
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=seconds,
    )
    process.report(WAITING, len(us.hosts), len(us.hosts), "")
    log.info("host %d of %s: %s", us.index, us.hosts, jax.local_devices())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check(us: Cluster, request: dict[str, Any], batch_size: int) -> None:
    """Refuse what the hosts cannot do together. All of them come to the same conclusion."""
    import jax

    counts = np.bincount([device.process_index for device in jax.devices()], minlength=len(us.hosts)).tolist()
    fault = None
    if len(set(counts)) > 1:
        fault = (
            f"The hosts have different numbers of accelerators ({', '.join(map(str, counts))}), and a batch is shared "
            "evenly. Hide some, with CUDA_VISIBLE_DEVICES."
        )
    elif difference := _different(us, request):
        fault = f"{difference}. All hosts must be given the same command, and have the same photographs and versions."
    elif batch_size % sum(counts):
        fault = (
            f"A batch of {batch_size} photographs cannot be shared evenly by {sum(counts)} devices of "
            f"{len(us.hosts)} hosts. Give a --batch-size that is a multiple of {sum(counts)}."
        )
    if fault:
        _leave()
        raise UserError(fault)


def _different(us: Cluster, request: dict[str, Any]) -> str | None:
    requests = [json.loads(each) for each in _gathered(json.dumps(request).encode())]
    for index, other in enumerate(requests):
        names = [name for name in {**requests[0], **other} if requests[0].get(name) != other.get(name)]
        if names:
            return f"Host {index} ({us.hosts[index]}) differs from host 0 ({us.hosts[0]}) in {', '.join(names)}"
    return None


def _distribute() -> None:
    """Put a copy of every variable made from now on on each device, and share each batch between them."""
    import jax
    import keras

    if jax.device_count() == 1:
        return
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    names = [f"{device.platform}:{device.id}" for device in devices]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names, auto_shard_dataset=False))


def _leave() -> None:
    """Part from the other hosts in peace: all get here, or JAX ends those that did not."""
    import jax

    jax.distributed.shutdown()


class _Shared(Checkpoints):
    """The first host's checkpoints, for all hosts: each loads what the first one has, and only that one saves."""

    def __init__(self, folder: Path, first: bool) -> None:
        super().__init__(folder)
        self._first = first

    def load(self, stage: str) -> Checkpoint | None:
        path = self.path(stage)
        data = _from_first(path.read_bytes() if self._first and path.exists() else b"")
        if self._first:
            return super().load(stage)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            received = Checkpoints(Path(folder))
            if data:
                received.path(stage).write_bytes(data)
            return received.load(stage)

    def due(self) -> bool:
        return self._first and super().due()

    def save(self, stage: str, checkpoint: Checkpoint) -> None:
        if self._first:
            super().save(stage, checkpoint)


def _gathered(data: bytes) -> list[bytes]:
    """What each host gave, in the hosts' order."""
    from jax.experimental import multihost_utils

    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.frombuffer(data.ljust(int(sizes.max())), np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row.tobytes()[:size] for row, size in zip(rows, sizes.tolist(), strict=True)]


def _from_first(data: bytes) -> bytes:
    """What the first host gave; what others give is ignored."""
    from jax.experimental import multihost_utils

    pieces, rest = map(int, multihost_utils.broadcast_one_to_all(np.array(divmod(len(data), CHUNK_BYTES), np.int32)))
    received = []
    for piece, size in enumerate([CHUNK_BYTES] * pieces + [rest] * (rest > 0)):
        own = data[piece * CHUNK_BYTES :][:size].ljust(size)
        received.append(multihost_utils.broadcast_one_to_all(np.frombuffer(own, np.uint8)).tobytes())
    return b"".join(received)
