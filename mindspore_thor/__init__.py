"""Second-order training for MindSpore in graph mode.

THOR, KFAC, EKFAC, TKFAC, Eva, Shampoo, SOAP, Muon, FNGD and LNGD, and SGD, AdamW and NAdamW for
comparison.
"""

from typing import TYPE_CHECKING

# Not lazy: it must come before MindSpore's first operator. It imports no MindSpore.
from mindspore_thor import runtime as runtime
from mindspore_thor.errors import UserError
from mindspore_thor.lazy import lazy_names

if TYPE_CHECKING:
    from mindspore_thor import data as data
    from mindspore_thor import methods as methods
    from mindspore_thor import optim as optim
    from mindspore_thor.layers.tokens import mark_tokens
    from mindspore_thor.optim import EKFAC, FNGD, KFAC, LNGD, SOAP, THOR, TKFAC, Eva, Muon, Shampoo
    from mindspore_thor.step.callbacks import StopOnFailure
    from mindspore_thor.step.loss_scale import DynamicLossScale
    from mindspore_thor.step.token_loss import TokenMeanLoss
    from mindspore_thor.step.train_step import TrainStep
else:
    _OPTIMIZERS = (
        *("EKFAC", "FNGD", "KFAC", "LNGD", "SOAP", "THOR", "TKFAC", "Eva", "Muon", "Shampoo"),
    )
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            **{name: "mindspore_thor.methods" for name in _OPTIMIZERS},
            **{name: f"mindspore_thor.{name}" for name in ("data", "methods", "optim")},
            "DynamicLossScale": "mindspore_thor.step.loss_scale",
            "StopOnFailure": "mindspore_thor.step.callbacks",
            "TokenMeanLoss": "mindspore_thor.step.token_loss",
            "TrainStep": "mindspore_thor.step.train_step",
            "mark_tokens": "mindspore_thor.layers.tokens",
        },
    )

__version__ = "0.2.0.dev0"
# Without the subpackages: a star import would put them in place of the user's own names.
__all__ = [
    "EKFAC",
    "FNGD",
    "KFAC",
    "LNGD",
    "SOAP",
    "THOR",
    "TKFAC",
    "DynamicLossScale",
    "Eva",
    "Muon",
    "Shampoo",
    "StopOnFailure",
    "TokenMeanLoss",
    "TrainStep",
    "UserError",
    "__version__",
    "mark_tokens",
]
