"""A small study and a stand-in for train.py, for the tests of the harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks import study as program

STUDY = {
    "title": "A title",
    "family": "mlp",
    "targets": [0.5, 0.7],
    "seeds": [1, 2],
    "common": {
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "mnist", "batch_size": 10},
        "learning_rate": {"schedule": "cosine", "peak": 0.1},
        "train": {"epochs": 3},
    },
    "tuning": {"epochs": 1, "seed": 9},
    "methods": {
        "sgd": {
            "settings": {"optimizer": {"name": "sgd"}},
            "candidates": [{"learning_rate.peak": 0.25}, {"learning_rate.peak": 0.5}],
        },
        "adamw": {
            "settings": {"optimizer": {"name": "adamw"}},
            "candidates": [{"learning_rate.peak": 0.75}, {"learning_rate.peak": 0.125}],
        },
    },
}

# Stands for train.py: accuracy is the peak learning rate plus a hundredth of the epoch.
FAKE_TRAIN = """
import argparse, json, os, pathlib, signal, sys, time
import yaml
parser = argparse.ArgumentParser()
names = ("config_path", "train.seed", "data_path", "output_dir", "resume_ckpt")
for name in (*names, "train.compile_cache"):
    parser.add_argument("--" + name)
given = vars(parser.parse_args())
here = pathlib.Path(__file__).parent
with open(here / "calls.txt", "a") as stream:
    stream.write(json.dumps(given) + "\\n")
folder = pathlib.Path(given["output_dir"])
recipe = yaml.safe_load(pathlib.Path(given["config_path"]).read_text())
behaviour = (here / "behaviour.txt").read_text() if (here / "behaviour.txt").exists() else ""
if behaviour == "wrong input":
    print("error: no such data")
    sys.exit(2)
metrics = folder / "metrics.jsonl"
rows = metrics.read_text().splitlines() if given["resume_ckpt"] else []
def save(epoch):
    for end in (".state.ckpt", ".ckpt"):
        (folder / f"mlp-{epoch}_4{end}").write_text("")
for epoch in range(len(rows) + 1, recipe["train"]["epochs"] + 1):
    if behaviour == "diverge" and epoch == 2:
        print("error: stopped at epoch 2")
        sys.exit(1)
    if behaviour == "killed at once":
        metrics.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    rows.append(json.dumps(
        {"epoch": epoch, "loss": 1.0, "learning_rate": 0.1, "skipped": 0,
         "top_1_accuracy": recipe["learning_rate"]["peak"] + epoch / 100, "step_ms": 1.0}
    ))
    metrics.write_text("\\n".join(rows) + "\\n")
    save(epoch)
    if behaviour == "killed before the test" and epoch == recipe["train"]["epochs"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "killed after an epoch":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        (here / "waiting").write_text("")
        time.sleep(60)
if recipe["data"].get("validation") and recipe["train"].get("test", True):
    print("result: {'top_1_accuracy': 0.125} ckpt= somewhere")
"""

FAKE_EVAL = """
import pathlib, sys
with open(pathlib.Path(__file__).parent / "evaluated.txt", "a") as stream:
    stream.write(" ".join(sys.argv[1:]) + "\\n")
print("result: {'top_1_accuracy': 0.25} ckpt= somewhere")
"""


def write_study(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def calls(fake: Path) -> list[dict[str, str]]:
    path = fake / "calls.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def labels(fake: Path) -> list[str]:
    return ["/".join(Path(call["output_dir"]).parts[-2:]) for call in calls(fake)]


def run_study(folder: Path, *flags: str, **changes: Any) -> int:
    arguments = [str(write_study(folder, **changes)), "--output_dir", str(folder / "out")]
    return program.main([*arguments, "--results_dir", str(folder / "results"), *flags])
