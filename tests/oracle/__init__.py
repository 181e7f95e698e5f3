"""Float64 NumPy oracle of small nets, their curvature and the second-order updates.

Nothing here imports the package under test: the numbers are what methods.md's formulas give.
"""
