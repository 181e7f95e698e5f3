"""The command line of ``python -m mindspore_thor.tune_split``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore_thor.command_line import path_argument, whole_number, whole_numbers
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.run.build import build_session
from mindspore_thor.run.checkpoint import find_checkpoint
from mindspore_thor.run.ckpt_file import assign, load_file
from mindspore_thor.run.commands import chosen_recipe, guarded, make_parser, read_arguments
from mindspore_thor.run.config import Config, ModelCatalogue
from mindspore_thor.run.console import shipped_models
from mindspore_thor.run.run_folder import create_folder, create_fresh_folder
from mindspore_thor.tune_split.choice import (
    CANDIDATES,
    Choice,
    choose_split,
    information_loss,
    preserved_share,
)
from mindspore_thor.tune_split.figure import draw_trade_off
from mindspore_thor.tune_split.measure import capturing, input_factors, inversion_seconds

JSON_NAME = "tune_split.json"
FIGURE_NAME = "tune_split.png"


def main(argv: Sequence[str] | None = None, models: ModelCatalogue | None = None) -> int:
    """Measure, print the table and the recommendation.

    Args:
        argv: Arguments without the program's name; None for the process's own.
        models: The models to choose from; None for the package's own.

    Returns:
        Exit code: 0 done, 2 wrong input.
    """
    return guarded(lambda: _tune(argv, models or shipped_models()))


def candidates(text: str | None) -> list[int]:
    """Read ``--list``.

    Args:
        text: Whole numbers with commas between them, or None for the paper's.

    Returns:
        The split dimensions, ascending.

    Raises:
        UserError: If it is something else.
    """
    if text is None:
        return list(CANDIDATES)
    try:
        splits = sorted(set(whole_numbers(text)))
    except argparse.ArgumentTypeError:
        splits = []
    if len(splits) < 2:
        raise UserError(
            f"--list is {quoted(text)}; give at least two whole numbers of at least 1, "
            "e.g. 32,64,128"
        )
    return splits


def _check_output_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder; give another --output_dir")
    if (folder / JSON_NAME).exists():
        raise UserError(f"{folder}: already holds {JSON_NAME}; give another --output_dir")


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Any]:
    parser = make_parser(
        "python -m mindspore_thor.tune_split",
        "Measure inversion time and information loss per split dimension; recommend one.",
    )
    parser.add_argument(
        "--checkpoint_file_path",
        type=path_argument,
        help="weights for the factors, .ckpt or a run folder [freshly initialised ones]",
    )
    parser.add_argument(
        "--list", help=f"split dimensions to compare [{','.join(map(str, CANDIDATES))}]"
    )
    parser.add_argument(
        "--batches", type=whole_number, default=4, help="batches for the factors [4]"
    )
    parser.add_argument(
        "--output_dir", type=path_argument, help="folder for table and figure [below runs/]"
    )
    arguments, overrides = read_arguments(parser, argv)
    if arguments.config_path is None:
        raise UserError("--config_path is missing; give a recipe, e.g. models/resnet/*.yaml")
    return arguments, overrides


def _tune(argv: Sequence[str] | None, models: ModelCatalogue) -> int:
    arguments, overrides = _arguments(argv)
    splits = candidates(arguments.list)
    if arguments.output_dir is not None:
        _check_output_folder(arguments.output_dir)
    config = chosen_recipe(arguments, arguments.config_path, overrides, models).config
    checkpoint = None
    if arguments.checkpoint_file_path is not None:
        checkpoint = find_checkpoint(arguments.checkpoint_file_path)
    session = build_session(capturing(config), models)
    if checkpoint is not None:
        parameters = session.net.parameters_dict()
        plain = {name: parameters[name] for name in session.weight_names}
        assign(plain, load_file(checkpoint), checkpoint)
    factors = input_factors(session, arguments.batches)
    largest = max(factor.shape[-1] for factor in factors.values())
    # Beyond the first candidate that splits nothing any more all others are the same.
    used = [split for k, split in enumerate(splits) if k == 0 or splits[k - 1] < largest]
    seconds = [inversion_seconds(split) for split in used]
    unit = seconds[0] if used[0] == 1 else inversion_seconds(1)
    shares = [preserved_share(list(factors.values()), split) for split in used]
    choice = choose_split(used, shares, seconds, unit)
    name = config.model.name
    if arguments.output_dir is not None:
        folder = create_folder(arguments.output_dir, name).path
    else:
        folder = create_fresh_folder(f"tune_split-{arguments.config_path.stem}", name).path
    _report(used, seconds, shares, choice, len(factors))
    weights = str(checkpoint) if checkpoint is not None else "freshly initialised"
    _write(folder, config, weights, used, seconds, shares, choice, factors)
    return 0


def _report(
    splits: Sequence[int],
    seconds: Sequence[float],
    shares: Sequence[float],
    choice: Choice,
    layers: int,
) -> None:
    print(f"{'split':>6} {'time us':>10} {'speed':>8} {'layers < 1 %':>13} {'share':>7}")
    for split, value, share, speed in zip(splits, seconds, shares, choice.performance):
        preserved = f"{round(share * layers)}/{layers}"
        print(f"{split:>6} {1e6 * value:>10.0f} {speed:>8.4f} {preserved:>13} {share:>7.4f}")
    if choice.crossing is None:
        print("the curves do not cross within the list")
    else:
        print("the curves cross at ({:.1f}, {:.4f})".format(*choice.crossing))
    print(f"recommended: split_dim {choice.split}", flush=True)


def _write(
    folder: Path,
    config: Config,
    weights: str,
    splits: Sequence[int],
    seconds: Sequence[float],
    shares: Sequence[float],
    choice: Choice,
    factors: dict[str, Any],
) -> None:
    content = {
        "model": config.model.name,
        "data": config.data.name,
        "weights": weights,
        "splits": list(splits),
        "seconds": list(seconds),
        "shares": list(shares),
        "performance": list(choice.performance),
        "crossing": choice.crossing,
        "recommended": choice.split,
        "information_loss": {
            name: [information_loss(factor, split) for split in splits]
            for name, factor in factors.items()
        },
    }
    (folder / JSON_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    title = f"{config.model.name} on {config.data.name}"
    if draw_trade_off(splits, shares, choice, title, folder / FIGURE_NAME):
        print(f"figure: {folder / FIGURE_NAME}", flush=True)
    else:
        print("no figure: matplotlib is missing (the extra 'plot')", file=sys.stderr)
