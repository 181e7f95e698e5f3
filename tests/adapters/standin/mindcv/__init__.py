"""A stand-in for mindcv 0.3.0: what the adapter replaces or calls, as small as can be.

Signatures and names are mindcv's; what they return says who was called.
"""

from . import optim as optim
from . import utils as utils
from .optim import create_optimizer as create_optimizer
