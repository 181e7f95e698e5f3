"""Ranks: rank tables, launching, and who inverts what."""
