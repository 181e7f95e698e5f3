"""Recipes and overrides: what is read, what is refused and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mindspore as ms
import pytest
import yaml
from mindspore import Tensor, nn
from places import ROOT

import models
from mindspore_thor.data import available_data
from mindspore_thor.errors import UserError
from mindspore_thor.optim import METHODS
from mindspore_thor.run.build import build_optimizer
from mindspore_thor.run.config import Config, load_config, parse_overrides

RECIPES = sorted((ROOT / "models").glob("*/*.yaml"))

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
        (("--damping.schedule", "polynomial"), ("damping.schedule", "exponential")),
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


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_is_valid_and_named_after_its_content(path: Path) -> None:
    """Its optimizer is built too, for another net: that checks every value and compiles nothing."""
    config = load_config(path, models)
    model, data = config.model.name, config.data.name
    assert path.stem.startswith(f"{model}_{data}_{config.optimizer.name}")
    net = nn.SequentialCell(nn.Dense(3, 2))
    optimizer, rate = build_optimizer(config, net, steps_per_epoch=10)
    assert isinstance(optimizer, nn.Optimizer)
    last = rate(Tensor(10 * config.train.epochs - 2, ms.int32)).asnumpy()
    assert 0 < last < 1
    if model in ("mlp", "resnet20", "resnet18", "vgg11"):
        models.create_model(model, **config.model.options)


def data_for(model: str) -> set[str]:
    """The data sets that a model is meant for; of a new model, those of a small residual net."""
    own = {
        "autoencoder": {"mnist"},  # the published problem
        "mlp": {"mnist", "fashion_mnist", "fashion_mnist_sample"},  # grey images
        "vgg11": {"cifar10", "cifar100"},  # needs 32x32 pixels
    }
    if model in own:
        return own[model]
    large = "stem" in models.model_options(model)
    # MNIST is no task for a convolutional net; 5,000 images are none for millions of weights.
    without = {"mnist", "fashion_mnist_sample"} if large else {"mnist", "imagenet"}
    return set(available_data()) - without


def test_there_is_a_recipe_for_every_pair_with_thor_and_with_sgd() -> None:
    """Of everything that is registered, so that a new model or data set needs its recipes."""
    pairs = {(model, data) for model in models.available_models() for data in data_for(model)}
    assert {data for _, data in pairs} == set(available_data())
    wanted = {f"{model}_{data}_{method}" for model, data in pairs for method in ("thor", "sgd")}
    assert wanted - {path.stem for path in RECIPES} == set()
    assert len(wanted) >= 2 * (4 * 4 + 3 * 4)  # seven residual nets on four data sets each


def test_a_large_net_has_the_stem_of_its_images() -> None:
    checked = 0
    for path in RECIPES:
        config = load_config(path, models)
        if "stem" in models.model_options(config.model.name):
            stem = "imagenet" if config.data.name == "imagenet" else "cifar"
            assert config.model.options["stem"] == stem, path.name
            checked += 1
    assert checked >= 2 * 4 * 4


def test_there_is_a_recipe_for_every_method_on_the_main_pairs() -> None:
    pairs = [f"{m}_cifar10" for m in ("resnet20", "resnet32", "vgg11", "resnet18")]
    pairs += ["resnet20_fashion_mnist_sample", "resnet50_imagenet"]
    wanted = {f"{pair}_{method}" for pair in pairs for method in METHODS}
    thor = ["resnet20_fashion_mnist_sample", "resnet18_cifar10", "resnet50_imagenet"]
    wanted |= {f"{pair}_thor_{variant}" for pair in thor for variant in ("stop", "nt")}
    assert wanted <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("stem", "batch", "epochs", "milestones"),
    [
        # The FNGD paper: batch 128, x0.1 at 50 % and 75 % of 200 (SGD) or 100 epochs (the others).
        *[(f"{net}_cifar10_sgd", 128, 200, [100, 150]) for net in ("resnet32", "vgg11")],
        *[
            (f"{net}_cifar10_{method}", 128, 100, [50, 75])
            for net in ("resnet32", "vgg11")
            for method in ("fngd", "kfac", "eva", "shampoo")
        ],
        ("resnet50_imagenet_fngd", 128, 55, [27.5, 41.25]),
        # The LNGD paper: batch 256, x0.1 every 40 of 200 epochs.
        *[
            (f"resnet18_cifar10_{method}", 256, 200, [40, 80, 120, 160])
            for method in ("adamw", "ekfac", "lngd", "tkfac")
        ],
    ],
)
def test_recipes_hold_the_published_schedules(
    stem: str, batch: int, epochs: int, milestones: list[float]
) -> None:
    path = next(path for path in RECIPES if path.stem == stem)
    config = load_config(path, models)
    assert (config.data.batch_size, config.train.epochs) == (batch, epochs)
    assert config.learning_rate.options["milestones"] == milestones
    assert config.learning_rate.options["factor"] == 0.1


@pytest.mark.parametrize(
    ("stem", "batch", "rate", "damping"),
    [
        # Table 3 of the THOR paper, as methods.md gives it: a_w, a_t, e_w, e_end, p; lam0, rho.
        ("thor", 256, (None, 0.045, None, 70, 6), (0.03, 0.87)),
        ("thor_stop", 256, (None, 0.050, None, 70, 6), (0.03, 0.87)),
        ("thor_nt", 256, (None, 0.045, None, 72, 6), (0.03, 0.87)),
        ("thor_bs4096", 4096, (0.005, 0.45, 5, 55, 6), (0.3, 0.2)),
        ("thor_bs8192", 8192, (0.01, 0.8, 5, 48, 6), (0.6, 0.3)),
    ],
)
def test_the_resnet50_recipes_hold_the_published_numbers(
    stem: str, batch: int, rate: tuple[Any, ...], damping: tuple[float, float]
) -> None:
    path = next(path for path in RECIPES if path.stem == f"resnet50_imagenet_{stem}")
    config = load_config(path, models)
    options = config.learning_rate.options
    peak = options.get("peak", options.get("initial"))
    found = (options.get("warmup_initial"), peak, options.get("warmup_epochs"))
    assert (*found, options["end_epoch"], options["power"]) == rate
    assert config.data.batch_size == batch
    assert config.damping is not None
    assert (config.damping.options["initial"], config.damping.options["rho"]) == damping
    thresholds = {"thor_stop": [0.01, 0.001], "thor_nt": [0.0, 0.0]}.get(stem, [0.01, 0.0])
    assert config.optimizer.options["trace_thresholds"] == thresholds


def test_a_configuration_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 5  # type: ignore[misc]
    assert yaml.safe_load(config.to_yaml())["train"]["epochs"] == 3
