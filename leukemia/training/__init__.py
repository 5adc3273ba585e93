"""One run, and a sweep of runs: trainer, callbacks, checkpoints, resume."""
