from . import optim_factory as optim_factory
from .optim_factory import create_optimizer as create_optimizer
