"""Destinations a classifier can be written for: one module each, all of the shape ``base.Target`` describes."""
