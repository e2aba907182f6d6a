"""What the TensorFlows on boards know: each operation that only computes, and its attributes, by version.

``operations.json`` was asked of these TensorFlows themselves.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorflow.core.framework.node_def_pb2 import NodeDef

OLDEST = "1.15"


@dataclass(frozen=True)
class Attribute:
    """An attribute of an operation: whether it must be given, and the words it may be, where only some are."""

    required: bool
    allowed: tuple[str, ...]


def versions() -> tuple[str, ...]:
    """The versions of TensorFlow that are known, oldest first."""
    return tuple(_table()["versions"])


def attributes(operation: str, version: str) -> dict[str, Attribute] | None:
    """An operation's attributes in a version of TensorFlow; None where that has no such operation."""
    described: str | None = None
    for known, change in _table()["operations"].get(operation, {}).items():
        if versions().index(known) <= versions().index(version):
            described = change
    if described is None:
        return None
    found = {}
    for word in described.split():
        name, _, allowed = word.partition("=")
        found[name.rstrip("!")] = Attribute(name.endswith("!"), tuple(allowed.split("|")) if allowed else ())
    return found


def unknown(nodes: Iterable[NodeDef], version: str) -> list[str]:
    """What a version of TensorFlow does not know in the nodes of a graph, one sentence each; empty: it knows all.

    Attributes whose name begins with an underscore are left out: TensorFlow keeps and ignores them.
    """
    found: dict[str, None] = {}
    for node in nodes:
        known = attributes(node.op, version)
        if known is None:
            found[f"TensorFlow {version} has no operation {node.op} ({node.name!r})"] = None
            continue
        for name, value in node.attr.items():
            if name.startswith("_"):
                continue
            if name not in known:
                found[f"{node.op} of TensorFlow {version} has no attribute {name} ({node.name!r})"] = None
            elif known[name].allowed and value.s.decode(errors="replace") not in known[name].allowed:
                found[f"{name} of {node.op} cannot be {value.s.decode(errors='replace')} in TensorFlow {version}"] = (
                    None
                )
        for name in (name for name, attribute in known.items() if attribute.required and name not in node.attr):
            found[f"{node.op} of TensorFlow {version} needs the attribute {name} ({node.name!r})"] = None
    return list(found)


@functools.cache
def _table() -> dict[str, Any]:
    text = (resources.files("leafport.targets.tftrt") / "operations.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
