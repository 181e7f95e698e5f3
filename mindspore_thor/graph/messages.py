"""What MindSpore's compiler says, where a user can do something about it."""

from __future__ import annotations

from mindspore_thor.errors import UserError

TWICE = (
    "MindSpore cannot differentiate layers that collect statistics twice, which a loss "
    "with derivatives of the network in it needs (gradient penalty, PINN): train this "
    "network with Shampoo, SOAP, Muon, AdamW or nn.Momentum"
)


def explained(error: RuntimeError) -> UserError | None:
    """Tell what the user can do about an error of the compiler.

    Args:
        error: As MindSpore raised it, while a step was compiled or run.

    Returns:
        One line, or None where nothing is known.
    """
    if "func graph is empty" in str(error):
        return UserError(TWICE)
    return None
