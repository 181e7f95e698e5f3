"""Second-order training for MindSpore: THOR, KFAC and their baselines in graph mode."""

from mindspore_thor import runtime  # isort: skip  (must precede MindSpore's first operator)
from mindspore_thor.errors import UserError
from mindspore_thor.optim import EKFAC, FNGD, KFAC, LNGD, THOR, TKFAC, Eva, Shampoo
from mindspore_thor.train.callbacks import StopOnFailure
from mindspore_thor.train.step import TrainStep

__version__ = "0.1.0"
__all__ = [
    "EKFAC",
    "FNGD",
    "KFAC",
    "LNGD",
    "THOR",
    "TKFAC",
    "Eva",
    "Shampoo",
    "StopOnFailure",
    "TrainStep",
    "UserError",
    "__version__",
    "runtime",
]
