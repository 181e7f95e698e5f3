"""Curvature, one file per family: its statistics, what is derived from them, its preconditioning."""
