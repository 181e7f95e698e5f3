"""What ``pip install`` brings: built from a copy of the tree, installed afresh, called."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from places import ROOT

import mindspore_thor

pytest.importorskip("wheel")

FOLDERS = ("benchmarks", "docs", "mindspore_thor", "models", "scripts", "tests")
BUILD = "import sys, setuptools.build_meta as b; getattr(b, 'build_' + sys.argv[1])(sys.argv[2])"
COMMANDS = ("train", "eval", "export", "launch")


class Built(NamedTuple):
    sdist: Path
    wheel: Path


def call(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a program without this repository; return what it printed, or its error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A source distribution of the tree, and the wheel that is built from that."""
    folder = tmp_path_factory.mktemp("built")
    # Not the whole tree, in which there may be environments and runs.
    (folder / "tree").mkdir()
    for name in FOLDERS:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=skipped)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder / "tree")
    call(sys.executable, "-c", BUILD, "sdist", folder, cwd=folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    call(sys.executable, "-c", BUILD, "wheel", folder, cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory, built: Built) -> Path:
    """The folder of the programs of a fresh environment; MindSpore is that of this Python."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    flags = ("install", "--quiet", "--no-index", "--no-deps", built.wheel)
    call(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *flags, cwd=folder)
    return folder / "bin"


def sources(folder: str, *endings: str) -> set[str]:
    found = (p for end in endings for p in (ROOT / folder).rglob(f"*{end}"))
    return {p.relative_to(ROOT).as_posix() for p in found if "__pycache__" not in p.parts}


def test_the_wheel_has_the_package_and_the_models_with_their_recipes(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = archive.read(metadata).decode()
        entries = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert {re.sub(r"-[^/]*\.dist-info", "", name.split("/")[0]) for name in names} == {
        "mindspore_thor"
    }
    ours = {name for name in names if ".dist-info/" not in name}
    sample = sources("mindspore_thor/data/sample", "")
    expected = {f"mindspore_thor/{name}" for name in sources("models", ".py", ".yaml")}
    expected |= sources("mindspore_thor", ".py", ".typed")
    expected |= {name for name in sample if (ROOT / name).is_file()}
    assert ours == expected and len(sample) >= 5
    assert f"\nVersion: {mindspore_thor.__version__}\n" in about
    assert sum(name.endswith("LICENSE") for name in names - ours) == 1
    assert re.findall(r"^mindspore-thor-(\w+) = ", entries, re.M) == sorted(COMMANDS)


def test_the_source_distribution_can_test_itself(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"train.py", "eval.py", "export.py", "CHANGELOG.md", "CITATION.cff", "LICENSE"}
    for folder in FOLDERS:
        wanted |= sources(folder, ".py", ".sh", ".yaml", ".md")
    assert wanted <= names


@pytest.mark.slow
def test_a_first_run_from_anywhere(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("raise SystemExit('another package of this name')")
    recipe = ("--config_path", "mlp_fashion_mnist_sample", "--method", "sgd")
    sizes = ("--model.hidden", "[16]", "--train.epochs", 2, "--output_dir", "run")
    call(scripts / "mindspore-thor-train", *recipe, *sizes, cwd=tmp_path)
    _, row = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    where = ("--checkpoint_file_path", "run")
    printed = call(scripts / "mindspore-thor-eval", *where, cwd=tmp_path)
    result = {name: round(row[name], 6) for name in ("top_1_accuracy", "top_5_accuracy")}
    assert printed.splitlines()[-1].startswith(f"result: {result} ckpt= run/mlp-2_")
    export = (*where, "--file_name", "net", "--batch_size", 5)
    printed = call(scripts / "mindspore-thor-export", *export, cwd=tmp_path)
    assert "input x: float32 [5, 1, 28, 28]" in printed
    assert (tmp_path / "net.mindir").is_file()


def test_the_models_are_those_of_the_installation(scripts: Path, tmp_path: Path) -> None:
    text = "import mindspore_thor.models as m; print(m.__file__)"
    place = Path(call(scripts / "python", "-c", text, cwd=tmp_path).strip())
    assert place.is_relative_to(scripts.parent)
    text = "from mindspore_thor.run.console import shipped_models as s; print(s().__file__)"
    assert call(scripts / "python", "-c", text, cwd=tmp_path).strip() == str(place)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(scripts: Path, tmp_path: Path, command: str) -> None:
    name = f"mindspore-thor-{command}"
    printed = call(scripts / name, "--help", cwd=tmp_path)
    assert printed.startswith("usage: ")
    if command != "launch":
        assert printed.startswith(f"usage: {name} ")
    error = call(scripts / name, "--nonsense", "1", cwd=tmp_path, code=2)
    assert error.startswith("error: ") and len(error.splitlines()) == 1


def test_an_unknown_recipe_is_one_line(scripts: Path, tmp_path: Path) -> None:
    arguments = ("--config_path", "resnet21_cifar10")
    error = call(scripts / "mindspore-thor-train", *arguments, cwd=tmp_path, code=2)
    assert error == "error: no such recipe: 'resnet21_cifar10'; did you mean 'resnet32_cifar10'?\n"


def test_the_version_stands_in_one_place() -> None:
    """A version is that of the newest entry of the changes; between two there is one to come."""
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    version = mindspore_thor.__version__
    assert newest == ("Unreleased" if ".dev" in version else version)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert "version" not in citation  # another place
