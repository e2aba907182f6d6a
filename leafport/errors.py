"""Every error leafport raises on purpose, in one tree.

    LeafportError            exit code 1: something failed
    ├── ConversionError      a converter refused, crashed, or wrote something else than it was asked for
    ├── VerificationError    a file does not say what the classifier says, or is not what its name claims
    ├── MeasurementError     a benchmark could not be run
    └── UserError            exit code 2: something the user can put right
        ├── DataError        photographs or their folders
        │   └── ImageError   one photograph
        ├── ModelError       a classifier, its weights or its contract
        ├── TargetError      a target that is unknown, or not available here
        └── OutputError      a place that cannot be written to

A message says what was wrong, where (the path, the value), and what to do.
"""

from __future__ import annotations


class LeafportError(Exception):
    """Something failed that was not the user's mistake."""

    exit_code = 1


class ConversionError(LeafportError):
    """A converter refused, crashed, or wrote something else than it was asked for."""


class VerificationError(LeafportError):
    """A file does not say what the classifier says, or is not what its name claims."""


class MeasurementError(LeafportError):
    """A benchmark could not be run."""


class UserError(LeafportError):
    """Something the user can put right."""

    exit_code = 2


class DataError(UserError):
    """Photographs or their folders cannot be used as they are."""


class ImageError(DataError):
    """One photograph cannot be used; the others still can."""


class ModelError(UserError):
    """A classifier, its weights or its contract cannot be used as it is."""


class TargetError(UserError):
    """A target is unknown, or not available on this machine."""


class OutputError(UserError):
    """A place cannot be written to."""
