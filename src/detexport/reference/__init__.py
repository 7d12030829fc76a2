"""The eager model's side of a comparison: inputs, runs, storage."""
