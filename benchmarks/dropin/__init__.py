"""A script for nn.Momentum whose optimizer is changed by one line: its runs and their page."""
