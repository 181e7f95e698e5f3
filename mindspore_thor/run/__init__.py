"""A run: recipe, loop, checkpoints, evaluation, run folder."""
