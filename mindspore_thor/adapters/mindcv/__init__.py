"""mindcv's trainer with the methods of this package: ``opt: thor`` in a YAML file of mindcv's.

    python -m mindspore_thor.adapters.mindcv train.py --config thor.yaml --data_dir D

runs mindcv's own ``train.py`` (or ``validate.py``). The methods' options are one key more in the
file, ``opt_options: {damping: 0.03, factor_interval: 10}``, or on the command line. In a script of
one's own :func:`install` does the same for ``mindcv.create_optimizer`` and
``mindcv.utils.create_trainer``; call it before names are imported from mindcv.

mindcv is not a dependency: it is imported when it is needed.
"""

from mindspore_thor.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, {"install": f"{__name__}.replace"})
