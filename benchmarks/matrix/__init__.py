"""Nets of mindcv with several methods: what is covered, compiled, trained and stored."""
