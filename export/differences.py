"""What became of a file since it was written: the facts that the manifest keeps, held against those found now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafport.errors import ModelError

SHOWN = 3


def differences(written: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What is another in a file than when it was written, a clause each; empty where nothing is.

    Args:
        written, found: facts as ``worker.facts_to_json`` gives them. What ``written`` does not have is not compared.

    Raises:
        ModelError: ``written`` holds no facts.
    """
    if not written:
        return []
    try:
        return _clauses(written, found)
    except (TypeError, LookupError, AttributeError) as problem:
        raise ModelError(f"The manifest holds damaged facts ({problem!r}). Export again.") from None


def _clauses(written: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    clauses = [
        f"its {kind} are {_tensors(found[kind])}, and were {_tensors(written[kind])}"
        for kind in ("inputs", "outputs")
        if kind in written and written[kind] != found[kind]
    ]
    clauses += _counts(written.get("ops", {}), found["ops"])
    clauses += _parts(written.get("parts", {}), found["parts"])
    was = written.get("contract_sha256", found["contract_sha256"])
    if was != found["contract_sha256"]:
        clauses.append("it carries another contract")
    return clauses


def _tensors(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']} ({tensor['dtype']} {tensor['shape']})" for tensor in tensors) or "none"


def _counts(written: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    other = [name for name in sorted({*written, *found}) if written.get(name, 0) != found.get(name, 0)]
    clauses = [f"it has {found.get(name, 0)} {name}, and had {written.get(name, 0)}" for name in other]
    return _shortened(clauses, "operations")


def _parts(written: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    if not written:  # Written before facts had parts.
        return []
    gone = [f"{name} is gone (it was {written[name]})" for name in written if name not in found]
    new = [f"{name} is new ({found[name]})" for name in found if name not in written]
    changed = [
        f"{name} is {found[name]}, and was {written[name]}"
        for name in written
        if name in found and written[name] != found[name]
    ]
    return _shortened([*changed, *gone, *new], "constants")


def _shortened(clauses: list[str], of: str) -> list[str]:
    rest = len(clauses) - SHOWN
    return [*clauses[:SHOWN], f"and {rest} more {of} differ"] if rest > 0 else clauses
