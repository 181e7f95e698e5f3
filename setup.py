"""Which folders are packages; everything else is in pyproject.toml.

The repository's ``models`` is installed as ``mindspore_thor.models``: a top-level package of that
name would be in everybody's way.
"""

from setuptools import find_packages, setup

MODELS = "mindspore_thor.models"

setup(
    packages=[
        *find_packages(include=["mindspore_thor", "mindspore_thor.*"]),
        MODELS,
        *(f"{MODELS}.{name}" for name in find_packages("models")),
    ],
    package_dir={MODELS: "models"},
)
