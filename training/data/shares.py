"""Which part of each batch this process reads, where several processes and devices learn from it together.

A batch is the same whoever reads it: its photographs, their order and what is drawn for them follow from the seed and
the step. Each process reads some of its rows, and Keras's distribution puts them together again, across the devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Share:
    """What one process has of each batch: all of it, unless several share it.

    Attributes:
        index: which of the processes this is, from 0.
        devices: how many there are, of all processes together; each has the same number, and of a batch as many rows.
    """

    index: int = 0
    processes: int = 1
    devices: int = 1

    def batch_size(self, wanted: int) -> int:
        """The largest size up to ``wanted`` that all devices can share; at least one photograph each."""
        return max(wanted // self.devices, 1) * self.devices

    def rows(self, batch_size: int) -> range:
        """This process's rows of a batch."""
        own = batch_size // self.processes
        return range(self.index * own, (self.index + 1) * own)

    def places(self, count: int, batch_size: int) -> np.ndarray:
        """This process's of the numbers from 0 to ``count`` - 1, batch by batch: int64 [N].

        Where devices share a batch the last one is full too: with numbers beyond, to which nothing belongs.
        """
        if self.devices == 1:
            return np.arange(count)
        batches = -(-count // batch_size)
        return np.arange(batches * batch_size).reshape(batches, batch_size)[:, self.rows(batch_size)].ravel()


def own() -> Share:
    """This process's share, by Keras's current distribution; without one, everything."""
    import keras

    distribution = keras.distribution.distribution()
    if distribution is None:
        return Share()
    return Share(distribution.data_shard_id, distribution.num_processes, distribution.num_model_replicas)


def answering(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """A function from this process's rows of a batch (any [n, ...]) to the answers to all of it (float32 [N, ...]).

    For Keras's JAX backend. All processes must call it together.
    """
    import jax
    import keras

    distribution = keras.distribution.distribution()
    trained = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    def call(trained: Any, others: Any, batch: Any) -> Any:
        answers, _ = model.stateless_call(trained, others, batch.astype("float32"), training=False)
        return answers.astype("float32")

    if distribution is None:
        alone = jax.jit(call)
        return lambda rows: np.asarray(alone(trained, others, rows))
    everywhere = jax.sharding.NamedSharding(distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec())
    together = jax.jit(call, out_shardings=everywhere)

    def ask(rows: np.ndarray) -> np.ndarray:
        layout = distribution.get_data_layout(rows.shape).backend_layout
        return np.asarray(together(trained, others, jax.make_array_from_process_local_data(layout, rows)))

    return ask
