"""Photographs for a first run, drawn from a seed: eight invented plants, three of them poisonous."""
