"""The train step, the loop around it, checkpoints and the configuration of a run."""
