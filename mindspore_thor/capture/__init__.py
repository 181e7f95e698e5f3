"""How statistics leave the backward pass: hooks in a network's layers, put in and taken out."""
