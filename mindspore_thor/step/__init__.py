"""The training step: backward pass, phases, guard, accumulation, callbacks."""
