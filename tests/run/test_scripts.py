"""The shell scripts, with stubs for Python: arguments, exit codes, signals, the environment."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from mindspore_thor.launch import command as launch

SCRIPTS = ROOT / "scripts"
SHELL_FILES = [*sorted(SCRIPTS.glob("*.sh")), ROOT / ".ci" / "run"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# Writes its arguments to $LOG; ends with the code in $CODES/<name of the program>, if any.
STUB = """#!/bin/sh
printf '%s|' "$@" >>"$LOG"
echo >>"$LOG"
code=$(cat "$CODES/$(basename -- "$1")" 2>/dev/null)
exit "${code:-0}"
"""


class Runner:
    """Runs a script with a stub in place of Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.codes = folder / "codes"
        self.codes.mkdir()
        stub = folder / "python"
        stub.write_text(STUB)
        stub.chmod(0o755)
        self.environment = {
            **os.environ,
            "MINDSPORE_THOR_PYTHON": str(stub),
            "LOG": str(self.log),
            "CODES": str(self.codes),
        }
        self.environment.pop("GLOG_v", None)

    def __call__(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> list[list[str]]:
        if not self.log.exists():
            return []
        return [line.split("|")[:-1] for line in self.log.read_text().splitlines()]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.mark.parametrize("path", SHELL_FILES, ids=[path.name for path in SHELL_FILES])
def test_bash_can_parse_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_training_without_arguments_is_the_sample_then_its_evaluation(runner: Runner) -> None:
    assert runner("run_standalone_train.sh").returncode == 0
    trained, evaluated = runner.calls()
    recipe = ROOT / "models" / "resnet" / "resnet20_fashion_mnist_sample.yaml"
    assert recipe.is_file()
    assert trained[:4] == [str(ROOT / "train.py"), "--config_path", str(recipe), "--output_dir"]
    assert trained[4].startswith("runs/resnet20_fashion_mnist_sample-")
    assert evaluated == [str(ROOT / "eval.py"), "--checkpoint_file_path", trained[4]]


def test_training_passes_everything_on(runner: Runner) -> None:
    extra = ["--train.epochs", "3", "--optimizer.damping=0.1", "--data.name", "a b"]
    assert (
        runner("run_standalone_train.sh", "data dir", "my.yaml", "old/x.ckpt", *extra).returncode
        == 0
    )
    trained, evaluated = runner.calls()
    where = ["--config_path", "my.yaml", "--data_path", "data dir", "--resume_ckpt", "old/x.ckpt"]
    assert trained == [str(ROOT / "train.py"), *where, *extra]
    assert evaluated[1:] == ["--checkpoint_file_path", "old", "--data_path", "data dir"]


@pytest.mark.parametrize("spelling", [["--output_dir", "o p"], ["--output_dir=o p"]])
def test_the_given_output_folder_is_evaluated(runner: Runner, spelling: list[str]) -> None:
    assert runner("run_standalone_train.sh", "", "my.yaml", "", *spelling).returncode == 0
    trained, evaluated = runner.calls()
    assert trained == [str(ROOT / "train.py"), "--config_path", "my.yaml", *spelling]
    assert evaluated[1:] == ["--checkpoint_file_path", "o p"]


@pytest.mark.parametrize("words", [["--method", "sgd"], ["--method=sgd"]])
def test_the_fresh_folder_is_named_after_recipe_and_method(
    runner: Runner, words: list[str]
) -> None:
    assert runner("run_standalone_train.sh", "", "a/my_data.yaml", "", *words).returncode == 0
    trained, evaluated = runner.calls()
    assert trained[1:4] == ["--config_path", "a/my_data.yaml", "--output_dir"]
    assert trained[4].startswith("runs/my_data_sgd-")
    assert trained[5:] == words
    assert evaluated[1:] == ["--checkpoint_file_path", trained[4]]


@pytest.mark.parametrize("script", [["run_standalone_train.sh"], ["run_distribute_train.sh", "2"]])
def test_a_printed_configuration_is_not_evaluated(runner: Runner, script: list[str]) -> None:
    assert runner(*script, "", "my.yaml", "", "--print_config", "--train.seed", "2").returncode == 0
    (trained,) = runner.calls()
    assert trained[:3] == [str(ROOT / "train.py"), "--config_path", "my.yaml"]  # not launched
    assert trained[-3:] == ["--print_config", "--train.seed", "2"]


def test_resuming_from_a_folder_evaluates_that_folder(runner: Runner) -> None:
    (runner.folder / "old").mkdir()
    assert runner("run_standalone_train.sh", "", "my.yaml", "old").returncode == 0
    assert runner.calls()[1][1:] == ["--checkpoint_file_path", "old"]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_failed_training_is_not_evaluated_and_its_code_returned(
    runner: Runner, code: int
) -> None:
    (runner.codes / "train.py").write_text(str(code))
    assert runner("run_standalone_train.sh").returncode == code
    assert len(runner.calls()) == 1


def test_the_code_of_the_evaluation_is_returned(runner: Runner) -> None:
    (runner.codes / "eval.py").write_text("2")
    assert runner("run_standalone_train.sh").returncode == 2
    assert runner("run_eval.sh", "", "x.ckpt").returncode == 2


def test_evaluation_passes_everything_on(runner: Runner) -> None:
    assert runner("run_eval.sh", "data", "a b.ckpt", "c.yaml", "--train.seed", "3").returncode == 0
    assert runner("run_eval.sh", "", "x.ckpt").returncode == 0
    first, second = runner.calls()
    program = [str(ROOT / "eval.py"), "--checkpoint_file_path"]
    where = ["--data_path", "data", "--config_path", "c.yaml", "--train.seed", "3"]
    assert first == [*program, "a b.ckpt", *where]
    assert second == [*program, "x.ckpt"]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("run_eval.sh", []),
        ("run_eval.sh", ["data"]),
        ("run_eval.sh", ["a", "b", "c", "d"]),
        ("run_standalone_train.sh", ["a", "b", "c", "d"]),
        ("run_standalone_train.sh", ["a", "b", "c", "d\n" * 500]),
    ],
)
def test_wrong_arguments_show_the_usage(runner: Runner, script: str, arguments: list[str]) -> None:
    done = runner(script, *arguments)
    assert done.returncode == 2
    assert "usage: " in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and len(line) < 300
    assert runner.calls() == []


LAUNCH = [str(SCRIPTS / "launch.py")]


def test_distributed_training_without_arguments_is_the_sample(runner: Runner) -> None:
    assert runner("run_distribute_train.sh", "2").returncode == 0
    trained, evaluated = runner.calls()
    recipe = ROOT / "models" / "resnet" / "resnet20_fashion_mnist_sample.yaml"
    where = ["2", str(ROOT / "train.py"), "--config_path", str(recipe), "--output_dir"]
    assert trained[:-1] == [*LAUNCH, *where]
    assert trained[-1].startswith("runs/resnet20_fashion_mnist_sample-")
    assert evaluated == [str(ROOT / "eval.py"), "--checkpoint_file_path", trained[-1]]


def test_distributed_training_passes_everything_on(runner: Runner) -> None:
    extra = ["--train.epochs", "3", "--data.name=a b"]
    (runner.folder / "old").mkdir()
    done = runner("run_distribute_train.sh", "my table.json", "d", "my.yaml", "old/x.ckpt", *extra)
    assert done.returncode == 0
    trained, evaluated = runner.calls()
    where = ["--config_path", "my.yaml", "--data_path", "d", "--resume_ckpt", "old/x.ckpt"]
    assert trained == [*LAUNCH, "my table.json", str(ROOT / "train.py"), *where, *extra]
    assert evaluated[1:] == ["--checkpoint_file_path", "old", "--data_path", "d"]


@pytest.mark.parametrize("words", [["--log_dir", "my logs"], ["--log_dir=my logs"]])
def test_the_launchers_own_options_go_to_the_launcher(runner: Runner, words: list[str]) -> None:
    rest = ["--train.epochs=1", "--cluster_time_out", "9", "--output_dir", "o"]
    assert runner("run_distribute_train.sh", "2", "", "r.yaml", *words, *rest).returncode == 0
    trained, _ = runner.calls()
    options = ["--log_dir=my logs", "--cluster_time_out=9"]
    where = ["--config_path", "r.yaml", "--train.epochs=1", "--output_dir", "o"]
    assert trained == [*LAUNCH, *options, "2", str(ROOT / "train.py"), *where]


def test_a_server_without_the_run_folder_does_not_evaluate(runner: Runner) -> None:
    assert runner("run_distribute_train.sh", "table.json").returncode == 0
    assert len(runner.calls()) == 1


def test_distributed_training_on_gpus_up_to_its_command_line(runner: Runner) -> None:
    done = runner(
        "run_distribute_train_gpu.sh", "4", "", "r.yaml", "--dry_run", "--train.seed", "3"
    )
    assert done.returncode == 0
    (trained,) = runner.calls()
    assert trained[:5] == [*LAUNCH, "--dry_run", "4", str(ROOT / "train.py"), "--config_path"]
    assert trained[5:7] == ["r.yaml", "--output_dir"]
    assert trained[8:] == ["--train.device_target", "GPU", "--train.seed", "3"]


@pytest.mark.parametrize("code", [1, 2, 130, 137])
def test_a_failed_distributed_training_is_not_evaluated(runner: Runner, code: int) -> None:
    (runner.codes / "launch.py").write_text(str(code))
    assert runner("run_distribute_train.sh", "2").returncode == code
    assert len(runner.calls()) == 1


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("run_distribute_train.sh", [], "error: RANK_TABLE_FILE|DEVICE_NUM is needed"),
        ("run_distribute_train.sh", ["2", "a", "b", "c", "d"], "error: RANK_TABLE_FILE|DEVICE_NUM"),
        ("run_distribute_train_gpu.sh", [], "error: DEVICE_NUM is needed"),
        ("run_distribute_train_gpu.sh", ["t.json"], "error: DEVICE_NUM is 't.json'; give a number"),
        ("run_distribute_train_gpu.sh", ["\x1b" * 999], "error: DEVICE_NUM is '$'"),
        ("run_distribute_train.sh", ["2", "--log_dir"], "error: --log_dir needs a value; usage: "),
    ],
)
def test_wrong_arguments_of_distributed_training(
    runner: Runner, script: str, arguments: list[str], message: str
) -> None:
    done = runner(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    (line,) = done.stderr.splitlines()
    assert line.isprintable() and len(line) < 300
    assert runner.calls() == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_a_signal_reaches_the_program_and_the_script_waits_for_it(
    runner: Runner, number: int, code: int
) -> None:
    program = runner.folder / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys, time\n"
        "def end(number, frame):\n"
        "    time.sleep(0.5)\n"
        "    open('saved', 'w').close()\n"
        "    sys.exit(128 + number)\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):\n"
        "    signal.signal(number, end)\n"
        "open('ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        ["bash", str(SCRIPTS / "run_standalone_train.sh")],
        cwd=runner.folder,
        env=runner.environment,
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (runner.folder / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert (runner.folder / "saved").exists()


# ---- modules in the current folder, which somebody else may have put there

TRAP = "open({log!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('executed ' + __name__)\n"
STARTED = (
    ". {common}; is_ready {python}",  # its answer does not matter here
    ". {common}; find_base_python",
    "{python} {launch} --dry_run 2 {train} --train.device_target=CPU",
    "{python} -c {msrun}",
    "{python} {train} --help",
    "{python} {evaluate} --help",
    "{python} {tools} --help",
)


def test_nothing_of_the_current_folder_is_run(tmp_path: Path) -> None:
    """The parts that run Python, with a real one, where every module of its library is a trap."""
    log = tmp_path / "log"
    folder = tmp_path / "traps"
    folder.mkdir()
    own = {"yaml", "numpy", "tqdm", "PIL", "pip", "mindspore_thor", "models", "matplotlib"}
    for name in (getattr(sys, "stdlib_module_names", {"argparse", "shlex", "venv"}) | own) - {
        "sys"
    }:
        (folder / f"{name}.py").write_text(TRAP.format(log=str(log)))
    # MindSpore is not there: what is run is all before its import.
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "mindspore.py").write_text("raise ModuleNotFoundError(name='mindspore')\n")
    paths = {
        "common": SCRIPTS / "common.sh",
        "python": sys.executable,
        "launch": LAUNCH[0],
        "train": ROOT / "train.py",
        "evaluate": ROOT / "eval.py",
        "tools": SCRIPTS / "hccl_tools.py",
        "msrun": f"{launch._MSRUN.split('from mindspore')[0]}import argparse, shlex, yaml",
    }
    script = "\n".join(STARTED).format(**{k: shlex.quote(str(v)) for k, v in paths.items()})
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(absent)},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert not log.exists(), log.read_text()
    assert "mindspore.parallel.cluster.run" in done.stdout  # the launcher did run
    assert "--merge" in done.stdout and "Traceback" not in done.stderr


def test_scripts_of_one_second_choose_two_folders(runner: Runner) -> None:
    runner.environment["BASH_FUNC_date%%"] = "() { echo 20260101-000000; }"
    for script, count in (("run_standalone_train.sh", 0), ("run_distribute_train.sh", 1)):
        for _ in range(2):
            assert runner(script, *["2"] * count).returncode == 0
    folders = [call[call.index("--output_dir") + 1] for call in runner.calls()[::2]]
    assert len(set(folders)) == 4
    assert all("sample-20260101-000000-" in folder for folder in folders)


@pytest.mark.parametrize(
    ("folder", "installed", "preloaded", "expected"),
    [
        ("venv", True, "", ["libtbbmalloc.so.2", "libtbbmalloc_proxy.so.2"]),
        ("venv", False, "", []),
        ("venv", True, "libother.so", ["libother.so"]),  # whoever chose one keeps it
        ("with space", True, "", []),  # where the loader would see two names
        ("with:colon", True, "", []),
    ],
)
def test_the_allocator_that_the_tests_preload(
    tmp_path: Path, folder: str, installed: bool, preloaded: str, expected: list[str]
) -> None:
    lib = tmp_path / folder / "lib"
    lib.mkdir(parents=True)
    if installed:
        (lib / "libtbbmalloc_proxy.so.2").touch()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {shlex.quote(str(lib.parent))}\n")
    python.chmod(0o755)
    # In a shell variable, lest the programs of this test load it.
    code = (
        'source "$1"; PYTHON=$2; LD_PRELOAD=$3; preload_allocator; '
        'printf "%s\\n" "$LD_PRELOAD" "$GLIBC_TUNABLES"'
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
    done = subprocess.run(
        ["bash", "-c", code, "-", str(SCRIPTS / "common.sh"), str(python), preloaded],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    preload, tunables = done.stdout.splitlines()
    assert [Path(name).name for name in preload.split(":") if name] == expected
    assert tunables == "glibc.malloc.hugetlb=1"
