"""Layer types: their geometry, which of a network's layers are covered, and why others are not."""
