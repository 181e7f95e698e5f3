"""Recipe files: methods side by side, one of which is chosen; bases; names of before."""

from __future__ import annotations

from pathlib import Path

import pytest

import models
from mindspore_thor.errors import UserError
from mindspore_thor.run.commands import eval_main, train_main
from mindspore_thor.run.config import Recipe, load_recipe, parse_overrides
from mindspore_thor.run.yaml_text import load_yaml

COMMON = """\
model: {name: mlp, hidden: [12]}
data: {name: mnist, batch_size: 10}
learning_rate: {schedule: cosine, peak: 0.1}
train: {epochs: 3}
"""
METHODS = """\
methods:
  sgd:
    optimizer: {name: sgd, momentum: 0.8}
  kfac_slow:
    data: {batch_size: 20}
    optimizer: {name: kfac, damping: 0.2}
    learning_rate: {peak: 0.01}
    train: {seed: 4}
"""
THOR = """\
  thor:
    optimizer: {name: thor}
    damping: {schedule: constant, value: 0.5}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write(tmp_path, "mlp_mnist.yaml", COMMON + METHODS + THOR)


def read(path: Path, method: str | None = None, *arguments: str) -> Recipe:
    return load_recipe(path, models, parse_overrides(arguments), method)


def refusal(path: Path, method: str | None = None, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, method, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    return message


def test_a_methods_sections_are_laid_over_those_for_all(recipe: Path) -> None:
    slow = read(recipe, "kfac_slow")
    assert slow.name == "mlp_mnist_kfac_slow"
    config = slow.config
    assert (config.optimizer.name, config.optimizer.options) == ("kfac", {"damping": 0.2})
    assert config.learning_rate.options == {"peak": 0.01}
    assert (config.data.name, config.data.batch_size) == ("mnist", 20)
    assert (config.train.epochs, config.train.seed) == (3, 4)
    config = read(recipe, "sgd").config
    assert config.learning_rate.options == {"peak": 0.1}
    assert (config.data.batch_size, config.train.seed) == (10, 1)
    assert config.damping is None


def test_overrides_go_on_top_of_the_method(recipe: Path) -> None:
    config = read(recipe, "kfac_slow", "--optimizer.damping", "0.7", "--train.epochs=9").config
    assert config.optimizer.options == {"damping": 0.7}
    assert (config.train.epochs, config.train.seed) == (9, 4)


def test_thor_is_the_default(recipe: Path) -> None:
    assert read(recipe).name == "mlp_mnist_thor"
    assert read(recipe).config.optimizer.name == "thor"


def test_without_thor_the_only_method_is_the_default(tmp_path: Path) -> None:
    one = METHODS[: METHODS.index("  kfac_slow")]
    assert read(write(tmp_path, "a.yaml", COMMON + one)).config.optimizer.name == "sgd"
    message = refusal(write(tmp_path, "b.yaml", COMMON + METHODS))
    assert "b.yaml: no method 'thor', the default" in message
    assert message.endswith("choose with --method one of sgd, kfac_slow")


def test_an_unknown_method_is_one_line_that_names_the_nearest(recipe: Path) -> None:
    message = refusal(recipe, "kfac")
    for part in ("mlp_mnist.yaml", "'kfac'", "did you mean 'kfac_slow'", "sgd, kfac_slow, thor"):
        assert part in message
    assert "did you mean 'thor'" in refusal(recipe, "thor" + "x" * 10_000)


def test_a_recipe_without_methods_is_one_by_itself(tmp_path: Path) -> None:
    path = write(tmp_path, "own.yaml", COMMON + "optimizer: {name: sgd}\n")
    assert read(path).name == "own"
    assert read(path).config.optimizer.name == "sgd"
    message = refusal(path, "sgd")
    assert "own.yaml: no 'methods:'" in message
    assert "leave out --method" in message


def test_the_resolved_configuration_is_such_a_recipe(recipe: Path, tmp_path: Path) -> None:
    config = read(recipe).config
    assert read(write(tmp_path, "config.yaml", config.to_yaml())).config == config


def test_a_file_wins_over_its_base_and_its_method_over_both(recipe: Path, tmp_path: Path) -> None:
    text = "base: mlp_mnist.yaml\ntrain: {seed: 7}\nlearning_rate: {peak: 0.3}\n"
    text += "methods:\n  sgd:\n    learning_rate: {peak: 0.4}\n  thor:\n  adamw:\n"
    text += "    optimizer: {name: adamw}\n"
    path = write(tmp_path, "other.yaml", text)
    slow, sgd = read(path, "kfac_slow").config, read(path, "sgd").config
    assert (slow.train.seed, slow.train.epochs, slow.data.batch_size) == (7, 3, 20)
    assert slow.learning_rate.options == {"peak": 0.3}
    assert sgd.learning_rate.options == {"peak": 0.4}
    assert sgd.optimizer.options == {"momentum": 0.8}
    assert read(path).config.damping is not None  # that of the base's thor
    assert read(path, "adamw").config.data.batch_size == 10  # not only the base's methods
    assert "sgd, kfac_slow, thor, adamw" in refusal(path, "eva")


def test_old_names_stand_for_a_file_and_its_method(recipe: Path, tmp_path: Path) -> None:
    old = tmp_path / "mlp_mnist_kfac_slow.yaml"
    assert read(old) == read(recipe, "kfac_slow") == read(old, "kfac_slow")
    message = refusal(old, "sgd")
    assert "--method kfac_slow" in message
    assert message.endswith("mlp_mnist.yaml as --config_path")
    # A file of that name is itself.
    write(tmp_path, "mlp_mnist_sgd.yaml", COMMON + "optimizer: {name: adamw}\n")
    assert read(tmp_path / "mlp_mnist_sgd.yaml").config.optimizer.name == "adamw"


def test_old_names_are_read_as_the_longest_file_name(recipe: Path, tmp_path: Path) -> None:
    other = COMMON + "methods: {slow: {optimizer: {name: lngd}}}\n"
    longer = write(tmp_path, "mlp_mnist_kfac.yaml", other)
    assert read(tmp_path / "mlp_mnist_kfac_slow.yaml").config == read(longer, "slow").config
    assert read(tmp_path / "mlp_mnist_kfac_slow.yaml").config.optimizer.name == "lngd"


def test_a_base_may_have_an_old_name(recipe: Path, tmp_path: Path) -> None:
    """Recipes of users' own are based on those names; their method is that of the name."""
    path = write(tmp_path, "own.yaml", "base: mlp_mnist_kfac_slow.yaml\ntrain: {epochs: 8}\n")
    config = read(path).config
    assert (config.optimizer.name, config.train.epochs, config.train.seed) == ("kfac", 8, 4)
    assert read(path).name == "own"
    assert "no 'methods:'" in refusal(path, "thor")


@pytest.mark.parametrize("name", ["mlp_mnist_eva.yaml", "mlp_mnist_sgd_2.yaml"])
def test_a_name_without_such_a_method_is_missing(recipe: Path, name: str) -> None:
    message = refusal(recipe.with_name(name))
    assert f"{name}: no such configuration file" in message
    assert "mlp_mnist.yaml has the methods sgd, kfac_slow, thor (--method)" in message


@pytest.mark.parametrize("name", ["_.yaml", "__", "a_.yaml", "_a", "_" * 300, "b" + "_b" * 2000])
def test_strange_names_are_missing_too(tmp_path: Path, name: str) -> None:
    assert "onfiguration" in refusal(tmp_path / name)


def test_a_recipe_cannot_be_based_on_its_own_old_name(recipe: Path) -> None:
    recipe.write_text("base: mlp_mnist_thor.yaml\n" + recipe.read_text())
    assert "mlp_mnist.yaml -> mlp_mnist.yaml" in refusal(recipe, "thor")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("methods: [sgd]\n", "methods is ['sgd']; give methods"),
        ("methods: {}\n", "methods is {}; give methods"),
        ("methods: {a/b: {optimizer: {name: sgd}}}\n", "methods has 'a/b'; give a name"),
        ("methods: {thor: 3}\n", "methods.thor is 3; give sections"),
        ("methods: {thor: {optimiser: {name: sgd}}}\n", "section 'optimizer' is missing"),
        (
            "methods: {thor: {optimizer: {name: sgd}, epochs: 3}}\n",
            "r.yaml (method thor): unknown key 'epochs'; did you mean 'train.epochs'?",
        ),
        (
            "methods: {thor: {optimizer: {name: sgd}, train.epochs: 3}}\n",
            "r.yaml (method thor): key 'train.epochs' has a dot",
        ),
        (
            "methods: {thor: {optimizer: {name: sgd}, base: x.yaml}}\n",
            "r.yaml (method thor): unknown key 'base'",
        ),
        ("methods.thor: {optimizer: {name: sgd}}\n", "key 'methods.thor' has a dot"),
    ],
)
def test_malformed_methods_are_one_line_that_helps(tmp_path: Path, text: str, part: str) -> None:
    assert part in refusal(write(tmp_path, "r.yaml", COMMON + text))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        train_main([*arguments, "--print_config"], models)
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_printed_configuration_is_a_recipe_with_origins(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--train.epochs", "6", "--learning_rate.peak", "0.2")
    long = "/a  b: 'c' # d" * 20  # takes several lines
    where = ("--config_path", str(recipe), "--method", "kfac_slow", "--data_path", long)
    text = printed(capsys, *where, *flags)
    config = read(recipe, "kfac_slow", *flags).config.to_dict()
    assert load_yaml(text) == {**config, "data": {**config["data"], "path": long}}
    lines = [line.strip() for line in text.splitlines()]
    assert f"damping: 0.2  # {recipe} (method kfac_slow)" in lines
    assert f"schedule: cosine  # {recipe}" in lines
    assert "epochs: 6  # command line" in lines
    assert "log_every: 100  # default" in lines
    assert f"hidden:  # {recipe}" in lines
    assert sorted(tmp_path.iterdir()) == [recipe]  # nothing was trained


def test_a_default_in_a_replaced_section_is_called_one(recipe: Path, tmp_path: Path) -> None:
    other = write(tmp_path, "other.yaml", "base: mlp_mnist.yaml\ndata: {name: cifar10}\n")
    assert read(recipe, "sgd").origins["data.batch_size"] == str(recipe)
    replaced = read(other, "sgd")
    assert replaced.config.data.batch_size == 128
    assert "data.batch_size" not in replaced.origins
    assert replaced.origins["data.name"] == str(other)


def test_a_wrong_method_has_exit_code_2(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for main in (train_main, eval_main):
        flags = ["--config_path", str(recipe), "--method", "shampo", "--print_config"]
        assert main(flags, models) == 2
        found = capfd.readouterr()
        assert found.out == ""
        assert found.err.startswith("error: ")
        assert "no method 'shampo'" in found.err
        assert len(found.err.splitlines()) == 1


def test_a_method_may_be_called_as_its_class_is(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for name in ("thor", "THOR"):
        with pytest.raises(SystemExit) as left:
            train_main(["--config_path", str(recipe), "--method", name, "--print_config"], models)
        assert left.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def test_a_name_that_is_nearly_a_recipes_is_told_which(capfd: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--config_path", "resnet20_cifar1"], models) == 2
    error = capfd.readouterr().err
    assert error == "error: no such recipe: 'resnet20_cifar1'; did you mean 'resnet20_cifar10'?\n"


@pytest.mark.parametrize("key", ["optimizer.lr", "optimizer.learning_rate"])
def test_a_rate_among_the_optimizers_keys_is_shown_its_place(
    recipe: Path, capfd: pytest.CaptureFixture[str], key: str
) -> None:
    assert train_main(["--config_path", str(recipe), f"--{key}", "0.1"], models) == 2
    assert "did you mean '--learning_rate." in capfd.readouterr().err


def test_evaluation_prints_what_it_would_use(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        eval_main(["--config_path", str(recipe), "--print_config"], models)
    assert left.value.code == 0
    assert load_yaml(capsys.readouterr().out) == read(recipe).config.to_dict()
    assert eval_main(["--print_config"], models) == 2
    assert "--checkpoint_file_path is missing" in capsys.readouterr().err
