"""The tasks by name."""

from mindspore_thor.run.task import Task
from mindspore_thor.run.tasks.images import Classify, Reconstruct
from mindspore_thor.run.tasks.language import Language
from mindspore_thor.run.tasks.pretrain import Pretrain
from mindspore_thor.run.tasks.translate import Translate

TASKS: dict[str, Task] = {
    task.name: task for task in (Classify(), Reconstruct(), Translate(), Pretrain(), Language())
}
"""Tasks by the name that configurations use."""
