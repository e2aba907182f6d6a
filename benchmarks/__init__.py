"""Measuring: size, latency, memory, accuracy and safety of every artifact, as a report of data and views of it."""
