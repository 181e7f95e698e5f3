from .amp import auto_mixed_precision as auto_mixed_precision
from .trainer_factory import create_trainer as create_trainer
