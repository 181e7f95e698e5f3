"""The one exception for mistakes that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: the message is one line that names the thing and the remedy.

    The command lines print it as ``error: ...`` and leave with exit code 2; inside Python it is an
    ordinary ``ValueError``.
    """


class TrainingError(RuntimeError):
    """Training cannot go on although the input was valid: numerical failure, with the remedy."""
