"""One file per layer type; whatever ``LayerType`` a file defines is known by that alone."""
