"""Figures as people read them: three digits, a unit, and never a 100 % that is not one."""

from __future__ import annotations

import math
import re

NONE = "—"
SPACE = "\u202f"  # Narrow and unbreakable, so that a figure keeps its unit.


def size(value: int | None) -> str:
    """Bytes as kB, MB or GB (powers of 1000): ``24.3 MB``."""
    if value is None:
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * factor:
            return f"{digits(value / factor)}{SPACE}{unit}"
    return f"{value}{SPACE}B"


def milliseconds(value: float | None) -> str:
    """``1.53 ms``; seconds from 10 s on."""
    if value is None:
        return NONE
    return f"{digits(value)}{SPACE}ms" if value < 9995 else f"{digits(value / 1e3)}{SPACE}s"


def percent(value: float | None) -> str:
    """A share as ``71.8 %``. 100 % and 0 % are said only of shares that are exactly that."""
    if value is None:
        return NONE
    if value in (0, 1):
        return f"{value * 100:.0f}{SPACE}%"
    return f"{min(max(value * 100, 0.1), 99.9):.1f}{SPACE}%"


def bound(value: float) -> str:
    """A lower bound as a share that is no higher: ``94.3 %`` of 0.94379."""
    return percent(math.floor(value * 1000) / 1000)


def level(value: float) -> str:
    """A share somebody chose, such as a confidence: ``95 %``, ``99.5 %``."""
    return f"{value * 100:g}{SPACE}%"


def difference(value: float | None) -> str:
    """A difference of probabilities: ``0.031``, ``1.2e-07``."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    return f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"


def points(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A difference of shares in percentage points, with its interval: ``0.2 (−1.1 to 1.5)``."""
    if value is None:
        return NONE
    said = [_signed(each * 100) for each in (value, low, high) if each is not None]
    return said[0] if len(said) < 3 else f"{said[0]} ({said[1]} to {said[2]})"


def _signed(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def digits(value: float) -> str:
    """Three significant digits, no exponent: ``0.213``, ``1.53``, ``33.5``, ``1,340``."""
    for limit, form in ((0.9995, ".3f"), (9.995, ".2f"), (99.95, ".1f")):
        if value < limit:
            return format(value, form)
    return f"{value:,.0f}"


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 photograph``, ``4,137 photographs``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    """``a``, ``a and b``, ``a, b and c``; past ``most``, how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def sentence(text: str) -> str:
    """Text as a sentence of its own: a capital first, a full stop last."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def markdown(text: object) -> str:
    """Text that Markdown shows as it stands, on one line of a table."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", flat)
