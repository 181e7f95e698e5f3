"""What runs without MindSpore, what the rest says there, and the names that are imported late."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

import mindspore_thor
import mindspore_thor.data

ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
BENCHMARKS = [p for p in sorted((ROOT / "benchmarks").glob("*.py")) if "def main" in p.read_text()]
STUB = "raise ModuleNotFoundError(\"No module named 'mindspore'\", name='mindspore')\n"


def run_without(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, where importing MindSpore fails as if it were not installed."""
    stubs = folder / "stubs"
    stubs.mkdir(exist_ok=True)
    (stubs / "mindspore.py").write_text(STUB)
    environment = {k: v for k, v in os.environ.items() if k not in ISA_VARIABLES}
    environment["PYTHONPATH"] = f"{stubs}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (str(ROOT / "train.py"), "--config_path", "any.yaml"),
        (str(ROOT / "eval.py"), "--help"),
        (str(ROOT / "export.py"), "--help"),
        ("-c", "from mindspore_thor.run.console import train; train()"),
        ("-m", "mindspore_thor.tune_split"),
        ("-m", "mindspore_thor.launch.command", "2", str(ROOT / "train.py")),
        ("-m", "benchmarks.ascend.dry_run"),
        *((str(program),) for program in BENCHMARKS),
    ],
    ids=[
        "train",
        "eval",
        "export",
        "console",
        "tune_split",
        "launch",
        "dry_run",
        *(p.stem for p in BENCHMARKS),
    ],
)
def test_what_needs_it_says_how_to_get_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run_without(tmp_path, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable} has no package 'mindspore'; ")
    for remedy in ("pip install .", ".venv/bin/python", "bash scripts/run_standalone_train.sh"):
        assert remedy in line
    assert done.stdout == ""


def test_rank_tables_are_made_without_it(tmp_path: Path) -> None:
    for number in (0, 1):
        server = {
            "server_id": f"10.0.0.{number}",
            "device": [{"device_id": "0", "device_ip": f"10.1.0.{number}", "rank_id": "0"}],
        }
        table = {"version": "1.0", "status": "completed", "server_count": "1"}
        (tmp_path / f"{number}.json").write_text(json.dumps({**table, "server_list": [server]}))
    script = str(ROOT / "scripts" / "hccl_tools.py")
    done = run_without(tmp_path, script, "--merge", "0.json", "1.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads((tmp_path / "hccl_2s_2p.json").read_text())["server_list"]) == 2


@pytest.mark.parametrize("name", ["get_cifar10.py", "get_text.py"])
def test_data_is_made_without_it(tmp_path: Path, name: str) -> None:
    """As far as the package, which is not here: the message is of the code that reads it."""
    script = str(ROOT / "scripts" / name)
    done = run_without(tmp_path, script, "--output", "out", "--package", "none.tgz")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 'none.tgz' is not the tarball")


def test_importing_the_package_sets_onednn_and_needs_no_mindspore(tmp_path: Path) -> None:
    text = "import os, mindspore_thor; print(os.environ.get('ONEDNN_MAX_CPU_ISA'))"
    done = run_without(tmp_path, "-c", text)
    assert done.returncode == 0, done.stderr
    cpuinfo = Path("/proc/cpuinfo")
    limited = cpuinfo.exists() and "avx512f" in cpuinfo.read_text()
    assert done.stdout.strip() == ("AVX2" if limited else "None")


@pytest.mark.parametrize("package", [mindspore_thor, mindspore_thor.data])
def test_late_names_are_those_that_the_type_checker_sees(package: ModuleType) -> None:
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text())
    (seen_only,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = []
    for node in seen_only.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            module = importlib.import_module(node.module)
            if node.module == package.__name__:
                importlib.import_module(f"{node.module}.{alias.name}")
            vars(package).pop(alias.name, None)  # looked up before: look again
            value = package.__getattr__(alias.name)
            if node.module != package.__name__:
                assert value is getattr(module, alias.name)
            else:
                assert value is sys.modules[f"{node.module}.{alias.name}"]
            if node.module != package.__name__:
                names.append(alias.name)
            else:  # a star import leaves subpackages out, which have names that users have, too
                assert alias.name in dir(package) and alias.name not in package.__all__
    assert set(names) <= set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert hasattr(package, name)
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'Thro'"):
        _ = package.Thro
