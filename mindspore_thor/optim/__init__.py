"""What happens around a direction, and the methods by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindspore_thor.methods import METHODS, create_optimizer, optimizer_options
    from mindspore_thor.methods.ekfac import EKFAC
    from mindspore_thor.methods.eva import Eva
    from mindspore_thor.methods.fngd import FNGD
    from mindspore_thor.methods.kfac import KFAC
    from mindspore_thor.methods.lngd import LNGD
    from mindspore_thor.methods.muon import Muon
    from mindspore_thor.methods.shampoo import Shampoo
    from mindspore_thor.methods.soap import SOAP
    from mindspore_thor.methods.thor import THOR
    from mindspore_thor.methods.tkfac import TKFAC
    from mindspore_thor.optim.base import SecondOrder

_OF_BASE = "SecondOrder"


def __getattr__(name: str) -> Any:
    # The methods stand above this package: they are looked up when somebody asks for one.
    if name.startswith("__"):
        raise AttributeError(name)
    if name == _OF_BASE:
        from mindspore_thor.optim.base import SecondOrder

        return SecondOrder
    from mindspore_thor import methods

    return getattr(methods, name)


__all__ = [
    "EKFAC",
    "FNGD",
    "KFAC",
    "LNGD",
    "METHODS",
    "SOAP",
    "THOR",
    "TKFAC",
    "Eva",
    "Muon",
    "SecondOrder",
    "Shampoo",
    "create_optimizer",
    "optimizer_options",
]
