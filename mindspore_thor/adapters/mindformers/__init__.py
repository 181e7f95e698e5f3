"""mindformers with the methods of this package: see docs/mindformers.md.

``register()`` makes known: to mindformers, the optimizer type ``SecondOrderSettings`` and the
wrapper type ``SecondOrderWrapper``; to this package, mindformers' linear layers and its look-up.
"""

from __future__ import annotations

import importlib
from typing import Any

from mindspore_thor.adapters.mindformers.layers import embedding_type, linear_type
from mindspore_thor.adapters.mindformers.training import SecondOrderSettings, SecondOrderWrapper
from mindspore_thor.errors import UserError
from mindspore_thor.layers.registry import register_layer_type

__all__ = ["SecondOrderSettings", "SecondOrderWrapper", "register"]

_LAYERS = "mindformers.parallel_core.training_graph.tensor_parallel.layers"
_REGISTER = "mindformers.tools.register"


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # its import runs much else, which fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"mindformers cannot be imported ({reason}): see docs/mindformers.md"
        ) from error


def register() -> None:
    """Make optimizer, wrapper and layer types known; again does no harm.

    Raises:
        UserError: mindformers cannot be imported.
    """
    layers, registry = _module(_LAYERS), _module(_REGISTER)
    for name in ("ColumnParallelLinear", "RowParallelLinear"):
        register_layer_type(linear_type(getattr(layers, name)))
    register_layer_type(embedding_type(layers.VocabParallelEmbedding))
    kinds = registry.MindFormerModuleType
    for cls, kind in ((SecondOrderSettings, kinds.OPTIMIZER), (SecondOrderWrapper, kinds.WRAPPER)):
        registry.MindFormerRegister.register_cls(cls, module_type=kind)
