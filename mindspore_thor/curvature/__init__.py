"""Curvature, one file per family: statistics, what is derived from them, preconditioning."""
