"""The papers' own pictures, made of runs of this package on the bundled sample."""
