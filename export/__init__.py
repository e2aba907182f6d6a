"""The plugin layer: one serving graph, one worker process per artifact, proof, and a manifest."""
