"""Recipes and overrides of every kind: a sound configuration or one short line, nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mindspore import nn

import models
from mindspore_thor.errors import LINE, UserError
from mindspore_thor.optim import METHODS, create_optimizer, optimizer_options
from mindspore_thor.optim.schedules import ConstantSchedule, create_schedule
from mindspore_thor.run.build import build_optimizer
from mindspore_thor.run.config import Config, TrainConfig, load_config, optimizer_keys
from mindspore_thor.run.overrides import parse_overrides
from mindspore_thor.run.tasks.images import ImageDataConfig

RECIPE = """\
model: {name: mlp, hidden: [12]}
data: {name: mnist, batch_size: 10}
optimizer: {name: thor, momentum: 0.8}
learning_rate: {schedule: polynomial, initial: 5e-2, power: 2}
train: {epochs: 3}
"""


def load(folder: Path, content: str | bytes = RECIPE, *arguments: str) -> Config:
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_config(path, models, parse_overrides(arguments))


def one_line(error: UserError) -> str:
    message = str(error)
    assert len(message) <= LINE < 300 - len("error: ")
    assert message.isprintable()
    return message


def refusal(folder: Path, content: str | bytes = RECIPE, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, content, *arguments)
    return one_line(caught.value)


def check_sound(config: Config) -> None:
    """What every configuration must be, whatever it was made of."""
    for section in (config.data, config.train):
        for item in dataclasses.fields(section):
            value = getattr(section, item.name)
            if value is not None:
                switched = item.metadata["switch"] and isinstance(value, bool)
                assert switched or type(value) is item.metadata["kind"], item.name
            if isinstance(value, float):
                assert math.isfinite(value)
            if isinstance(value, int):
                assert 0 <= value < 2**31
            if isinstance(value, str):
                assert value.strip() and "\0" not in value
    assert 1 <= config.train.epochs <= 1_000_000
    assert 1 <= config.data.batch_size <= 65536 and 1 <= config.data.eval_batch_size <= 16384
    assert config.optimizer.name in METHODS
    assert set(config.optimizer.options) <= set(optimizer_keys(config.optimizer.name))
    for choice in (config.learning_rate, config.damping):
        if choice is not None:
            create_schedule(choice.name, 7, config.train.epochs, **choice.options)


NUMERIC = [
    f"{section}.{item.name}"
    for section, cls in (("data", ImageDataConfig), ("train", TrainConfig))
    for item in dataclasses.fields(cls)
    if item.metadata["kind"] in (int, float)
]


@pytest.mark.parametrize("key", NUMERIC)
def test_every_number_has_a_range(tmp_path: Path, key: str) -> None:
    for text in ("9" * 400, "9" * 5000, str(2**31), "-1", "-1e-3", ".nan", ".inf", "1e39", "1:30"):
        for given_as in (("--" + key, text), (f"--{key}={text}",)):
            if text == str(2**31) and key == "train.loss_scale":
                continue  # the only number that may be as large
            message = refusal(tmp_path, RECIPE, *given_as)
            assert key in message
    for text in ("'3'", "true", "on", "[3]", "{a: 3}", "0x", "1_0", "2001-01-01"):
        assert key in refusal(tmp_path, RECIPE, f"--{key}={text}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--damping=0", ("command line: section 'damping'", "above 0")),
        ("--damping={schedule: constant, value: 0}", ("damping", "above 0")),
        ("--damping=-0.0", ("damping", "above 0")),
        ("--damping=1e-50", ("value", "1e-50", "float32 holds 1.2e-38 to 3.4e+38")),
        ("--damping={schedule: exponential, initial: 1e-30, rho: 1e-37}", ("rho", "closer to 1")),
        ("--optimizer.inverse_interval=2147483648", ("inverse_interval", "at most 1073741824")),
        ("--optimizer.factor_interval=[[0, 1], [9, 2], [5, 3]]", ("factor_interval", "ascend")),
        ("--optimizer.factor_interval=[[0, 1], [4294967296, 2]]", ("factor_interval", "ascend")),
        ("--optimizer.trace_include_damping=flase", ("trace_include_damping", "true or false")),
        ("--optimizer.trace_include_damping='false'", ("trace_include_damping", "true or false")),
        ("--optimizer.trace_include_damping=no", ("trace_include_damping", "true or false")),
        ("--optimizer.trace_include_damping=0", ("trace_include_damping", "true or false")),
        ("--data.augment='true'", ("data.augment", "true or false")),
        (
            "--learning_rate={schedule: step, initial: 1, factor: 0.1, milestones: [3, 1]}",
            ("rise",),
        ),
        (
            "--learning_rate={schedule: step, initial: 1, factor: 1e30, milestones: [1, 2]}",
            ("factor",),
        ),
        ("--learning_rate.end_epoch=1e9", ("end_epoch", "at most 1000000")),
        ("--train.loss_scale=1e-40", ("loss_scale", "float32 holds 1.2e-38")),
        ("--learning_rate.initial=.nan", ("initial", "nan")),
        ("--learning_rate={schedule: warmup_polynomial, warmup_epochs: x}", ("warmup_epochs",)),
        ("--learning_rate=true", ("learning_rate", "True")),
        ("--data.path=' '", ("data.path", "not empty")),
        ('--data.path="a\\0b"', ("data.path", "NUL")),
        ("--train={foo: {}}", ("train.foo",)),
        ("--train={epochs.x: 3}", ("train.epochs.x",)),
        ("--train.epochs.x=3", ("train.epochs.x",)),
        ("--train" + ".x" * 3000 + "=3", ("unknown key",)),
        ("--" + "y" * 100_000 + "=3", ("unknown key",)),
        ("--train.seed=" + "[" * 3000, ("train.seed",)),
        ("--model.name=" + "z" * 100_000, ("model.name", "did you mean")),
        ("--optimizer.name=" + "z" * 100_000, ("optimizer.name", "use one of")),
        ("--train.task=\x1b[31mred", ("train.task",)),
        ("--" + "\x1b" * 9 + "=3", ("unknown key",)),
    ],
    ids=lambda value: str(value)[:40].replace("\x1b", ""),
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    message = refusal(tmp_path, RECIPE, override)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("train.epochs: 5\n" + RECIPE, ("recipe.yaml", "'train.epochs' has a dot", "'train:'")),
        ("model.name: mlp\n" + RECIPE, ("has a dot",)),
        (RECIPE + "train.epochs: {x: 1}\n", ("has a dot",)),
        (RECIPE.replace("{epochs: 3}", "{epochs.x: 3}"), ("unknown key 'train.epochs.x'",)),
        (RECIPE.replace("epochs: 3", "epochs: 1:30"), ("train.epochs", "'1:30'")),
        (RECIPE.replace("epochs: 3", "[1, 2]: 3"), ("recipe.yaml:5", "key [1, 2] is not text")),
        (RECIPE.replace("epochs: 3", "2001-01-01: 3"), ("train.2001-01-01",)),
        (
            RECIPE.replace("epochs: 3", "epochs: !!python/name:os.system ''"),
            ("recipe.yaml:5", "tag"),
        ),
        (RECIPE.replace("epochs: 3", "epochs: &e [*e]"), ("recipe.yaml:5", "contains itself")),
        (RECIPE.replace("epochs: 3", f"epochs: {'9' * 5000}"), ("recipe.yaml:5", "out of range")),
        (RECIPE + "k" * 100_000 + ": 3\n", ("recipe.yaml:6", "malformed")),
        (RECIPE + f"? {'k' * 100_000}\n: 3\n", ("unknown key",)),
        ("base: ''\n", ("base is ''",)),
        ('base: "a\\0b"\n', ("NUL",)),
        ("base: loop\n", ("loop", "symbolic links")),
        ("base: [" + "recipe2.yaml, " * 60 + "]\n", ("more than 50 recipes",)),
        ("base: " + "x" * 5000 + "\n", ("cannot read", "too long")),
        (b"\xff\xfe" + RECIPE.encode("utf-16-le"), ("not UTF-8",)),
        (b"a: " + b"x" * 300_000, ("more than 200000 characters",)),
        (b"a: " + b"x" * 3_000_000, ("more than 200000 characters",)),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, content: str | bytes, words: tuple[str, ...]
) -> None:
    os.symlink("loop", tmp_path / "loop")
    (tmp_path / "recipe2.yaml").write_text("train: {seed: 1}\n")
    message = refusal(tmp_path, content)
    for word in words:
        assert word in message


def test_many_paths_to_one_base_end_soon(tmp_path: Path) -> None:
    """2^25 of them, if each were followed."""
    (tmp_path / "r0.yaml").write_text(RECIPE)
    for level in range(1, 26):
        base = f"r{level - 1}.yaml"
        (tmp_path / f"r{level}.yaml").write_text(f"base: [{base}, {base}]\n")
    with pytest.raises(UserError, match="more than 50 recipes"):
        load_config(tmp_path / "r25.yaml", models)
    config = load_config(tmp_path / "r4.yaml", models)  # 16 of them are no harm
    assert config.train.epochs == 3


def test_a_file_without_end_is_not_read_to_the_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 200000 characters"):
        load_config(Path("/dev/zero"), models)


def test_sections_that_are_given_on_the_command_line_say_so(tmp_path: Path) -> None:
    message = refusal(tmp_path, RECIPE, "--train={epochs: 0}")
    assert message.startswith("command line: train.epochs is 0")


def test_the_code_refuses_a_damping_of_zero_as_well() -> None:
    for damping in (0, 0.0, ConstantSchedule(0.0), float("nan"), 10**400, 10**5000, True, "1"):
        with pytest.raises(UserError, match="damping"):
            METHODS["thor"](nn.Dense(2, 2), 0.1, damping=damping)


JUNK: list[Any] = ["flase", None, [], [[1, "a"]], {"a": 1}, math.nan, 1e-300, -1, 10**400, 10**5000]


@pytest.mark.parametrize("method", METHODS)
def test_every_keyword_takes_or_refuses_every_value(method: str) -> None:
    net = nn.Dense(2, 2)
    for key, parameter in optimizer_options(method).items():
        for value in JUNK:
            try:
                create_optimizer(method, net, 0.1, **{key: value})
            except UserError as error:
                one_line(error)
            else:
                # What is taken is what the keyword may be left at, or no limit of a size.
                assert value is None and parameter.default is not True, (key, value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden": [10**12]}),
        ("mlp", {"hidden": [2**17] * 3}),
        ("mlp", {"hidden": [4] * 2000}),
        ("mlp", {"image_size": -28}),
        ("mlp", {"image_size": 10**9}),
        ("autoencoder", {"hidden": [2**17] * 3}),
        ("resnet20", {"width": math.nan}),
        ("resnet20", {"width": math.inf}),
        ("vgg11", {"width": 1e300}),
        ("vgg11", {"width": 10**5000}),
        ("resnet18", {"num_classes": 10**5000}),
        ("resnet18", {"in_channels": 2**40}),
    ],
)
def test_a_model_out_of_proportion_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        models.create_model(name, **options)
    one_line(caught.value)


SECTIONS = {
    "model": ["name", *models.model_options("mlp")],
    "data": [item.name for item in dataclasses.fields(ImageDataConfig)],
    "optimizer": ["name", *optimizer_keys("thor")],
    "learning_rate": ["schedule", "initial", "power", "end_epoch", "milestones", "factor", "peak"],
    "damping": ["schedule", "value", "initial", "rho", "milestones", "factor"],
    "train": [item.name for item in dataclasses.fields(TrainConfig)],
}
WORDS = [*METHODS, "mlp", "polynomial", "step", "cosine", "constant", "exponential", "CPU", "true"]
NUMBERS = (
    st.integers(-5, 5)
    | st.integers()
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 10**30, 10**400, -(10**400)])
    | st.floats()
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KNOWN = st.sampled_from([f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys])
PLAIN = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sound_or_one_line(folder: Path, content: str | bytes, *arguments: str) -> None:
    try:
        config = load(folder, content, *arguments)
    except UserError as error:
        one_line(error)
        return
    check_sound(config)
    assert load(folder, config.to_yaml()) == config
    try:
        build_optimizer(config, nn.SequentialCell(nn.Dense(3, 2)), steps_per_epoch=10)
    except UserError as error:
        one_line(error)


@PLAIN
@given(content=st.binary(max_size=60))
def test_any_bytes_as_a_recipe(tmp_path: Path, content: bytes) -> None:
    sound_or_one_line(tmp_path, content)
    sound_or_one_line(tmp_path, RECIPE.encode() + content)


@PLAIN
@given(
    sections=st.dictionaries(st.sampled_from([*SECTIONS, "base", "extra", "train.epochs"]), VALUES),
    single=st.lists(st.tuples(KNOWN, VALUES), max_size=2),
)
def test_any_tree_as_a_recipe(
    tmp_path: Path, sections: dict[str, Any], single: list[tuple[str, Any]]
) -> None:
    base = {
        "model": {"name": "mlp"},
        "optimizer": {"name": "thor"},
        "learning_rate": {"schedule": "polynomial", "initial": 0.1, "power": 2},
    }
    tree: dict[str, Any] = {**base, **sections}
    for key, value in single:
        section, _, name = key.partition(".")
        part = tree.setdefault(section, {})
        if isinstance(part, dict):
            part[name] = value
    sound_or_one_line(tmp_path, json.dumps(tree))  # JSON is YAML


@PLAIN
@given(
    pairs=st.lists(st.tuples(KNOWN, NUMBERS | st.from_regex(r"[-+0-9.eExo_:]{1,12}")), max_size=3)
)
def test_any_numbers_as_overrides(tmp_path: Path, pairs: list[tuple[str, Any]]) -> None:
    arguments = [f"--{key}={value}" for key, value in pairs]
    sound_or_one_line(tmp_path, RECIPE, *arguments)


@PLAIN
@given(arguments=st.lists(st.text(max_size=12) | st.builds("--{}={}".format, KNOWN, st.text())))
def test_any_text_as_overrides(tmp_path: Path, arguments: list[str]) -> None:
    sound_or_one_line(tmp_path, RECIPE, *arguments)
