"""Recipes and overrides: what is read, what is refused and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Tensor, nn

import models
from mindspore_thor.errors import UserError
from mindspore_thor.run.build import build_optimizer
from mindspore_thor.run.config import Config, load_config, parse_overrides

RECIPE = """\
model: {name: mlp, hidden: [12]}
data: {name: mnist, batch_size: 10}
optimizer:
  name: thor
  momentum: 0.8
  trace_thresholds: [0.01, 1e-3]
learning_rate: {schedule: polynomial, initial: 5e-2, power: 2}
damping: {schedule: exponential, initial: .3, rho: 0.5}
train: {epochs: 3}
"""


def load(folder: Path, text: str = RECIPE, *arguments: str) -> Config:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_config(path, models, parse_overrides(arguments))


def refusal(folder: Path, text: str = RECIPE, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_recipe_is_read_as_written(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.model.name == "mlp"
    assert config.model.options == {"hidden": [12]}
    assert config.data.batch_size == 10
    assert config.optimizer.name == "thor"
    assert config.optimizer.options == {"momentum": 0.8, "trace_thresholds": [0.01, 0.001]}
    assert config.learning_rate.options == {"initial": 0.05, "power": 2}
    assert config.damping is not None
    assert config.damping.options == {"initial": 0.3, "rho": 0.5}
    assert config.train.epochs == 3


def test_overrides_win_in_both_spellings(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        RECIPE,
        *("--train.epochs", "7", "--learning_rate.initial=1e-3", "--data.augment", "false"),
        *("--optimizer.inverse_interval", "[[0, 10], [100, 50]]", "--train.seed=9"),
    )
    assert config.train.epochs == 7
    assert config.train.seed == 9
    assert config.learning_rate.options["initial"] == 0.001
    assert config.data.augment is False
    assert config.optimizer.options["inverse_interval"] == [[0, 10], [100, 50]]


def test_negative_numbers_and_empty_text_can_be_given(tmp_path: Path) -> None:
    config = load(tmp_path, RECIPE, "--optimizer.momentum", "-1", "--data.path=")
    assert config.optimizer.options["momentum"] == -1
    assert config.data.path is None


def test_another_name_drops_the_old_options(tmp_path: Path) -> None:
    config = load(tmp_path, RECIPE, "--optimizer.name", "sgd", "--damping", "null")
    assert config.optimizer.options == {}
    assert config.damping is None


def test_a_plain_number_is_a_constant_schedule(tmp_path: Path) -> None:
    config = load(tmp_path, RECIPE, "--learning_rate", "0.1")
    assert (config.learning_rate.name, config.learning_rate.options) == ("constant", {"value": 0.1})


def test_the_resolved_configuration_reads_back_to_itself(tmp_path: Path) -> None:
    config = load(
        tmp_path, RECIPE, "--optimizer.factor_interval", "3", "--data.path", "/some/where"
    )
    assert load(tmp_path, config.to_yaml()) == config


def test_inheritance_goes_through_several_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "grand.yaml").write_text(RECIPE)
    (tmp_path / "sub" / "parent.yaml").write_text(
        "base: ../grand.yaml\ndata: {batch_size: 20}\ntrain: {epochs: 4, seed: 2}\n"
    )
    (tmp_path / "extra.yaml").write_text("train: {epochs: 6}\n")
    config = load(tmp_path, "base: [sub/parent.yaml, extra.yaml]\ntrain: {seed: 8}\n")
    assert (config.data.name, config.data.batch_size) == ("mnist", 20)
    assert (config.train.epochs, config.train.seed) == (6, 8)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--optimizer.dampin", "1"), ("--optimizer.dampin", "--optimizer.damping")),
        (("--epochs", "1"), ("--epochs", "--train.epochs")),
        (("--batch_size", "1"), ("--batch_size", "--data.batch_size")),
        (("--train.sed", "1"), ("--train.sed", "--train.seed")),
        (("--model.hiden", "1"), ("--model.hiden", "--model.hidden")),
        (("--learning_rate.inital", "1"), ("inital", "--learning_rate.initial")),
        (("--config", "x.yaml"), ("--config", "--config_path")),
        (("--optimizer.name", "thro"), ("command line", "thro", "thor")),
        (("--model.name", "resnet21"), ("resnet21", "resnet20")),
        (("--learning_rate.schedule", "polynomal"), ("polynomal", "polynomial")),
        (("--train.epochs", "0"), ("train.epochs", "0", "at least 1")),
        (("--train.epochs", "many"), ("train.epochs", "many", "whole number")),
        (("--train.epochs", "1.5"), ("train.epochs", "whole number")),
        (("--train.epochs", "true"), ("train.epochs", "whole number")),
        (("--train.label_smoothing", "1"), ("label_smoothing", "below 1")),
        (("--train.loss_scale", ".inf"), ("loss_scale", "above 0")),
        (("--train.device_target", "TPU"), ("device_target", "TPU", "Ascend")),
        (("--data.augment", "maybe"), ("data.augment", "true or false")),
        (("--data", "3"), ("data", "section")),
        (("--damping.schedule", "cosine"), ("damping.schedule", "exponential")),
        (("--optimizer.damping", "0.1"), ("optimizer.damping", "contradicts")),
        (("--optimizer.name", "sgd"), ("damping", "--damping null")),
        (("--train.epochs",), ("--train.epochs", "needs a value")),
        (("stray",), ("stray", "--any.key value")),
        (("--train.seed", "[1"), ("--train.seed", "[1")),
        (("--train", "1", "--train.seed", "2"), ("--train.seed", "contradicts")),
    ],
)
def test_a_bad_override_is_one_line_that_helps(
    tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, RECIPE, *arguments)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {name: mlp\n  data: 3\n", ("recipe.yaml:2", "malformed YAML", "correct it")),
        ("train:\n\tepochs: 3\n", ("recipe.yaml:2", "malformed YAML", "correct it")),
        ("train: {epochs: 3}\ntrain: {seed: 3}\n", ("recipe.yaml:2", "appears twice", "train")),
        ("- a\n- b\n", ("recipe.yaml", "malformed")),
        ("3: {a: 1}\n", ("recipe.yaml", "malformed")),
        ("", ("recipe.yaml", "'model' is missing")),
        (RECIPE + "optimiser: {name: sgd}\n", ("optimiser.name", "optimizer.name")),
        (RECIPE + "extra: {}\n", ("extra",)),
        ("base: recipe.yaml\n", ("circle", "recipe.yaml -> recipe.yaml", "remove one 'base:'")),
        ("base: nowhere.yaml\n", ("nowhere.yaml", "no such")),
        ("base: 3\n", ("base is 3",)),
        (RECIPE.replace("name: thor", "momentums: 1"), ("optimizer.name", "recipe.yaml")),
    ],
)
def test_a_bad_recipe_is_one_line_that_helps(
    tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, text)
    for part in parts:
        assert part in message


def test_the_file_of_a_bad_value_is_named_even_if_inherited(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: -3"))
    assert "parent.yaml" in refusal(tmp_path, "base: parent.yaml\ntrain: {seed: 1}\n")


def test_missing_and_unreadable_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml", models)
    with pytest.raises(UserError, match=r"cannot read.*; give a readable YAML file$"):
        load_config(tmp_path, models)
    (tmp_path / "latin.yaml").write_bytes(b"model: {name: \xff}\n")
    with pytest.raises(UserError, match=r"not UTF-8 text\); give a readable YAML file$"):
        load_config(tmp_path / "latin.yaml", models)


def test_a_configuration_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 5  # type: ignore[misc]
    assert yaml.safe_load(config.to_yaml())["train"]["epochs"] == 3


REST = RECIPE.replace(
    "  momentum: 0.8\n",
    "  momentum: 0.8\n  rest: adamw\n  rest_learning_rate: {schedule: step, initial: 0.2, "
    "milestones: [1], factor: 0.5}\n",
)


def rest_rates(config: Config, steps: list[int]) -> np.ndarray:
    """The rates of AdamW at some steps, with ten steps in an epoch."""
    optimizer, _ = build_optimizer(config, nn.SequentialCell(nn.Dense(3, 2)), steps_per_epoch=10)
    rest = optimizer.rest
    return np.array([rest.current_rate(Tensor([step], ms.int32)).asnumpy() for step in steps])


def test_the_rate_of_the_rest_is_a_schedule_in_epochs(tmp_path: Path) -> None:
    config = load(tmp_path, REST)
    # An epoch is ten steps: the tenth (step 9) ends it, and from then on the rate is halved.
    assert rest_rates(config, [0, 9, 10, 29]) == pytest.approx([0.2, 0.2, 0.1, 0.1])
    assert load(tmp_path, config.to_yaml()) == config


def test_the_rate_of_the_rest_may_be_overridden_in_part_or_as_a_whole(tmp_path: Path) -> None:
    key = "--optimizer.rest_learning_rate"
    config = load(tmp_path, REST, f"{key}.factor", "0.1")
    assert rest_rates(config, [0, 29]) == pytest.approx([0.2, 0.02])
    config = load(tmp_path, REST, key, "0.03")
    assert rest_rates(config, [0, 29]) == pytest.approx([0.03, 0.03])
    # Its end is that of the training, three epochs; the options of the other schedule are gone.
    linear = (f"{key}.schedule=polynomial", f"{key}.initial=1", f"{key}.power=1")
    config = load(tmp_path, REST, *linear)
    assert rest_rates(config, [0, 14]) == pytest.approx([1 - 1 / 30, 0.5])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("factr", "1"), ("optimizer.rest_learning_rate.factr", "rest_learning_rate.factor")),
        (("schedule", "stepp"), ("optimizer.rest_learning_rate.schedule", "'step'")),
        (("schedule", "cosine"), ("recipe.yaml", "optimizer.rest_learning_rate", "'peak'")),
        (("initial", "-1"), ("command line", "optimizer.rest_learning_rate", "initial is -1")),
    ],
)
def test_a_bad_rate_of_the_rest_is_one_line_that_names_it(
    tmp_path: Path, arguments: tuple[str, str], parts: tuple[str, ...]
) -> None:
    flag, value = arguments
    message = refusal(tmp_path, REST, f"--optimizer.rest_learning_rate.{flag}", value)
    for part in parts:
        assert part in message


def test_a_method_without_a_rest_has_no_rate_for_it(tmp_path: Path) -> None:
    text = RECIPE.replace("damping: {schedule: exponential, initial: .3, rho: 0.5}\n", "")
    flags = ("--optimizer.name", "sgd", "--optimizer.rest_learning_rate.schedule", "step")
    message = refusal(tmp_path, text, *flags)
    assert "unknown key '--optimizer.rest_learning_rate.schedule'" in message
