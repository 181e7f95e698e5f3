"""Compiled graphs that are kept between runs."""
