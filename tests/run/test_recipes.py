"""The shipped recipes: which there are, what they hold, how their numbers are marked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mindspore as ms
import pytest
import yaml
from mindspore import Tensor, nn
from places import ROOT

import models
from mindspore_thor.data import available_data
from mindspore_thor.data.pretraining.factory import available_pretraining
from mindspore_thor.data.text.factory import available_text
from mindspore_thor.optim import METHODS
from mindspore_thor.run.build import build_optimizer
from mindspore_thor.run.config import load_config
from mindspore_thor.run.recipes import read_recipe

RECIPES = sorted((ROOT / "models").glob("*/*.yaml"))


def tree_of(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text())
    assert isinstance(tree, dict)
    return tree


def methods_of(path: Path) -> list[str]:
    """The methods that a recipe names, those of its base first."""
    tree = tree_of(path)
    inherited = methods_of(path.parent / tree["base"]) if "base" in tree else []
    return list(dict.fromkeys([*inherited, *tree.get("methods", {})]))


PAIRS = [(path, method) for path in RECIPES for method in methods_of(path)]
NAMES = [f"{path.stem}_{method}" for path, method in PAIRS]


def test_a_recipe_is_based_on_another_one_at_most() -> None:
    based = [path for path in RECIPES if "base" in tree_of(path)]
    assert len(based) >= 10
    for path in based:
        assert "base" not in tree_of(path.parent / tree_of(path)["base"]), path.name


def unmarked(text: str) -> list[str]:
    """The methods of a recipe, and 'head', whose comment says neither published nor chosen."""
    missing, comment = [], ""
    for line in text.splitlines():
        found = re.fullmatch(r"  (\w+):", line)
        if line.lstrip().startswith("#"):
            comment += line
        elif line.strip():
            owner = found[1] if found else "head" if line.startswith("base:") else None
            if owner and not re.search("[Pp]ublished|[Cc]hosen", comment):
                missing.append(owner)
            comment = ""
    return missing


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_the_numbers_of_every_method_are_marked_published_or_chosen(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert unmarked(text) == []
    # The check itself: without comments each method is found, and the head of a derived file.
    bare = re.sub("(?m)^ *#.*\n", "", text)
    own = list(tree_of(path).get("methods", {}))
    assert unmarked(bare) == (["head"] if "base" in tree_of(path) else []) + own


@pytest.mark.parametrize(("path", "method"), PAIRS, ids=NAMES)
def test_the_old_name_of_a_recipe_stands_for_file_and_method(path: Path, method: str) -> None:
    old = read_recipe(path.with_name(f"{path.stem}_{method}.yaml"))
    assert old == read_recipe(path, method)
    assert old[1] == f"{path.stem}_{method}"


def differences(path: Path, variant: str) -> set[str]:
    """The keys by which a variant differs from THOR."""
    one, other = (load_config(path, models, method=m).to_dict() for m in ("thor", variant))
    return {
        f"{section}.{key}"
        for section in one
        for key in {*one[section], *other[section]}
        if one[section].get(key) != other[section].get(key)
    }


@pytest.mark.parametrize("variant", ["thor_stop", "thor_nt"])
def test_variants_of_thor_differ_in_what_their_comment_says(variant: str) -> None:
    extra = {"thor_stop": {"learning_rate.initial"}, "thor_nt": {"learning_rate.end_epoch"}}
    files = [path for path in RECIPES if variant in tree_of(path).get("methods", {})]
    assert len(files) == 4
    for path in files:
        published = extra[variant] if path.stem == "resnet50_imagenet" else set()
        assert differences(path, variant) == {"optimizer.trace_thresholds"} | published


@pytest.mark.parametrize(("path", "method"), PAIRS, ids=NAMES)
def test_every_recipe_is_valid_and_named_after_its_content(path: Path, method: str) -> None:
    """Its optimizer is built too, for another net: that checks every value and compiles nothing."""
    config = load_config(path, models, method=method)
    model, data = config.model.name, config.data.name
    assert path.stem == f"{model}_{data}"
    assert method.split("_")[0] == config.optimizer.name
    net = nn.SequentialCell(nn.Dense(3, 2))
    optimizer, rate = build_optimizer(config, net, steps_per_epoch=10)
    assert isinstance(optimizer, nn.Optimizer)
    last = rate(Tensor(10 * config.train.epochs - 2, ms.int32)).asnumpy()
    assert 0 < last < 1
    assert "model" not in tree_of(path).get("methods", {}).get(method, {})  # one net for all
    if method == "thor" and model in ("mlp", "resnet20", "resnet18", "vgg11"):
        models.create_model(model, **config.model.options)


def data_for(model: str) -> set[str]:
    """The data sets that a model is meant for; of a new model, those of a small residual net."""
    own = {
        "autoencoder": {"mnist"},  # the published problem
        "mlp": {"mnist", "fashion_mnist", "fashion_mnist_sample"},  # grey images
        "vgg11": {"cifar10", "cifar100"},  # needs 32x32 pixels
        "bert": {"toy_documents", "documents"},
        "bert_tiny": {"documents"},
        "bert_base": {"mlperf_bert"},
        "bert_large": {"mlperf_bert"},
        "transformer": {"toy_translation"},  # sizes of one's own
        "transformer_base": {"wmt14"},  # Vaswani et al.'s
        "transformer_big": {"wmt14"},
    }
    if model in own:
        return own[model]
    large = "stem" in models.model_options(model)
    if "vocab_size" in models.model_options(model):
        return {"multi30k"}
    # MNIST is no task for a convolutional net; 5,000 images are none for millions of weights.
    without = {"mnist", "fashion_mnist_sample"} if large else {"mnist", "imagenet"}
    return set(available_data()) - without


def test_there_is_a_recipe_for_every_pair_with_thor_and_with_sgd() -> None:
    """Of everything that is registered, so that a new model or data set needs its recipes."""
    pairs = {(model, data) for model in models.available_models() for data in data_for(model)}
    # Files of somebody's own belong to no recipe of ours.
    text = set(available_text()) - {"parallel_text"} | set(available_pretraining())
    assert {data for _, data in pairs} == set(available_data()) | text
    wanted = {f"{model}_{data}_{method}" for model, data in pairs for method in ("thor", "sgd")}
    assert wanted - set(NAMES) == set()
    assert len(wanted) >= 2 * (4 * 4 + 3 * 4)  # seven residual nets on four data sets each


def test_a_large_net_has_the_stem_of_its_images() -> None:
    checked = 0
    for path, method in PAIRS:
        config = load_config(path, models, method=method)
        if "stem" in models.model_options(config.model.name):
            stem = "imagenet" if config.data.name == "imagenet" else "cifar"
            assert config.model.options["stem"] == stem, (path.name, method)
            checked += 1
    assert checked >= 2 * 4 * 4


def test_there_is_a_recipe_for_every_method_on_the_main_pairs() -> None:
    pairs = [f"{m}_cifar10" for m in ("resnet20", "resnet32", "vgg11", "resnet18")]
    pairs += ["resnet20_fashion_mnist_sample", "resnet50_imagenet"]
    wanted = {f"{pair}_{method}" for pair in pairs for method in METHODS}
    thor = ["resnet20_fashion_mnist_sample", "resnet18_cifar10", "resnet50_imagenet"]
    wanted |= {f"{pair}_thor_{variant}" for pair in thor for variant in ("stop", "nt")}
    assert wanted <= set(NAMES)


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
    path, method = PAIRS[NAMES.index(stem)]
    config = load_config(path, models, method=method)
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
    path, method = PAIRS[NAMES.index(f"resnet50_imagenet_{stem}")]
    config = load_config(path, models, method=method)
    options = config.learning_rate.options
    peak = options.get("peak", options.get("initial"))
    found = (options.get("warmup_initial"), peak, options.get("warmup_epochs"))
    assert (*found, options["end_epoch"], options["power"]) == rate
    assert config.data.batch_size == batch
    assert config.damping is not None
    assert (config.damping.options["initial"], config.damping.options["rho"]) == damping
    thresholds = {"thor_stop": [0.01, 0.001], "thor_nt": [0.0, 0.0]}.get(stem, [0.01, 0.0])
    assert config.optimizer.options["trace_thresholds"] == thresholds
