"""leafport: from photographs to image classifiers a phone or a board can run with no network."""

__version__ = "0.1.0"
