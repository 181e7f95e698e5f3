"""The command lines of ``train.py`` and ``eval.py``: arguments in, exit code out.

That of ``export.py`` is in :mod:`mindspore_thor.run.export`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_thor.command_line import (
    Parser,
    one_line_errors,
    path_argument,
    path_text,
    report_error,
)
from mindspore_thor.errors import TrainingError, UserError
from mindspore_thor.files import shown
from mindspore_thor.parallel.communication import world
from mindspore_thor.parallel.setup import serve_as_scheduler
from mindspore_thor.run.build import (
    Session,
    build_session,
    cache_of,
    fit_to_data,
    open_data,
    prepare_device,
)
from mindspore_thor.run.checkpoint import (
    Position,
    earlier_checkpoint,
    find_checkpoint,
    list_checkpoints,
    load_weights,
    read_state,
    state_file_of,
)
from mindspore_thor.run.config import Config, ModelCatalogue, Recipe, load_recipe, parse_overrides
from mindspore_thor.run.evaluate import keep_graphs
from mindspore_thor.run.help_text import describe_keys
from mindspore_thor.run.loop import Trainer
from mindspore_thor.run.print_config import annotated_yaml
from mindspore_thor.run.ranks import check_same_start
from mindspore_thor.run.resume import restore
from mindspore_thor.run.run_folder import (
    CONFIG_NAME,
    RunFolder,
    choose_folder,
    create_folder,
    create_fresh_folder,
)
from mindspore_thor.run.task import TEST
from mindspore_thor.run.yaml_files import Settings
from mindspore_thor.runtime import NOTICE
from mindspore_thor.signals import StopRequest

EXIT_TRAINING = 1
EXIT_TERMINATED = 143


def train_main(argv: Sequence[str] | None, models: ModelCatalogue) -> int:
    """Run ``train.py``.

    Args:
        argv: Arguments, without the program's name; None for the process's own.
        models: The models to choose from.

    Returns:
        Exit code: 0 done, 1 training failed, 2 wrong input, 130 or 143 stopped by a signal.
    """
    with StopRequest() as stop:
        return guarded(lambda: _train(argv, models, stop))


def eval_main(argv: Sequence[str] | None, models: ModelCatalogue) -> int:
    """Run ``eval.py``.

    Args:
        argv: Arguments, without the program's name; None for the process's own.
        models: The models to choose from.

    Returns:
        Exit code: 0 done, 2 wrong input.
    """
    return guarded(lambda: _evaluate(argv, models))


@one_line_errors
def guarded(work: Callable[[], int]) -> int:
    """Turn the errors that a user can mend into one line and an exit code.

    Args:
        work: What the command does; returns its exit code.

    Returns:
        That code, or the error's.
    """
    try:
        if serve_as_scheduler():
            return 0
        return work()
    except TrainingError as error:
        report_error(error)
        return EXIT_TRAINING


def make_parser(program: str, purpose: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all commands share.

    Args:
        program: The command's name.
        purpose: One line for ``--help``.
    """
    keys = "\n".join(describe_keys())
    called = Path(sys.argv[0]).name
    parser = Parser(
        prog=called if called.startswith("mindspore-thor-") else program,
        description=purpose,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Any key of the configuration can follow, e.g. --train.epochs 5:\n{keys}",
    )
    parser.add_argument(
        "--config_path",
        type=path_argument,
        help="recipe, or the name of one in models/, e.g. resnet20_fashion_mnist_sample",
    )
    parser.add_argument("--method", help="which of the recipe's methods [thor, or the only one]")
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print the resolved configuration, itself a recipe, and leave",
    )
    parser.add_argument(
        "--data_path", type=path_text, help="folder of the data set; same as --data.path"
    )
    return parser


def read_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, Settings]:
    """Read a command line that ends in overrides of the configuration.

    Args:
        parser: From :func:`make_parser`.
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The options, and the overrides.

    Raises:
        UserError: If an argument is wrong.
    """
    arguments, rest = parser.parse_known_args(argv)
    overrides = parse_overrides(rest)
    if arguments.data_path is not None:
        # Taken as it is: a folder may be called 2024 or ~, which YAML would not read as text.
        data = {"data": {"path": arguments.data_path}}
        overrides.merge(Settings(data, {"data.path": "--data_path"}))
    return arguments, overrides


def chosen_recipe(
    arguments: argparse.Namespace, path: Path, overrides: Settings, models: ModelCatalogue
) -> Recipe:
    """Read the recipe of a command line.

    Args:
        arguments: From :func:`read_arguments`.
        path: The recipe.
        overrides: From :func:`read_arguments`, too.
        models: The models to choose from.

    Returns:
        The recipe, for the method that was asked for.

    Raises:
        UserError: If it is wrong.
        SystemExit: With 0, where the configuration was to be printed.
    """
    recipe = load_recipe(models.shipped_recipe(path), models, overrides, arguments.method)
    if arguments.print_config:
        print(annotated_yaml(recipe.config, recipe.origins), end="", flush=True)
        raise SystemExit(0)  # as --help: what is printed is the result
    if NOTICE:
        print(NOTICE, flush=True)
    return recipe


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the option that :func:`chosen_checkpoint` reads.

    Args:
        parser: From :func:`make_parser`.
    """
    parser.add_argument(
        "--checkpoint_file_path",
        type=path_argument,
        help="checkpoint, or a run folder: its latest one",
    )


def chosen_checkpoint(
    arguments: argparse.Namespace, overrides: Settings, models: ModelCatalogue
) -> tuple[Path, Config]:
    """Find a command line's checkpoint, and the recipe, which may be the one beside it.

    Args:
        arguments: From :func:`read_arguments`.
        overrides: From :func:`read_arguments`, too.
        models: The models to choose from.

    Returns:
        The weights file, and the configuration.

    Raises:
        UserError: If one of them is missing or wrong.
        SystemExit: With 0, where the configuration was to be printed.
    """
    path = arguments.config_path
    if arguments.print_config and path is not None:
        chosen_recipe(arguments, path, overrides, models)  # needs no checkpoint
    if arguments.checkpoint_file_path is None:
        raise UserError("--checkpoint_file_path is missing; give a .ckpt file or a run folder")
    checkpoint = find_checkpoint(arguments.checkpoint_file_path)
    if path is None:
        path = checkpoint.parent / CONFIG_NAME
        if not path.is_file():
            raise UserError(
                f"{checkpoint.parent}: no {CONFIG_NAME} beside the checkpoint; give --config_path"
            )
    return checkpoint, chosen_recipe(arguments, path, overrides, models).config


def _train(argv: Sequence[str] | None, models: ModelCatalogue, stop: StopRequest) -> int:
    parser = make_parser("train.py", "Train a model by a recipe.")
    parser.add_argument(
        "--output_dir", type=path_argument, help="run folder [a fresh one below runs/]"
    )
    parser.add_argument(
        "--resume_ckpt",
        type=path_argument,
        help="checkpoint, or run folder, whose run is continued",
    )
    arguments, overrides = read_arguments(parser, argv)
    if arguments.config_path is None:
        raise UserError("--config_path is missing; give a recipe, e.g. models/resnet/*.yaml")
    recipe = chosen_recipe(arguments, arguments.config_path, overrides, models)
    config = recipe.config
    stored = _read_stored(arguments.resume_ckpt) if arguments.resume_ckpt is not None else None
    prepare_device(config)
    leads = announce_rank()
    resumed = stored.path if stored else None
    start = (stored.position.epoch, stored.position.step) if stored else (0, 0)
    place = choose_folder(arguments.output_dir, resumed, start) if leads else None
    session = build_session(config, models, stored.path.parent if stored else None)
    if stored is not None:
        position = stored.position
        changes = restore(session, position, stored.values, stored.path)
        if leads:
            print(f"resumed from {stored.path} at epoch {position.epoch}, step {position.step}")
            for change in changes:
                print(f"note: {change}")
    else:
        steps = session.train_data.steps_per_epoch
        position = Position(config=session.config.to_dict(), steps_per_epoch=steps)
    check_same_start(session, position)
    if not leads:
        return _run(session, None, position, stop)
    if place is None:
        folder = create_fresh_folder(recipe.name, config.model.name)
    else:
        folder = create_folder(place, config.model.name)
    with folder.claimed(resumed, start) as notes:
        for note in notes:
            print(f"note: {note}")
        return _run(session, folder, position, stop)


def announce_rank() -> bool:
    """Return whether this process writes and prints; the others say who they are."""
    rank, size = world()
    if rank:
        print(f"rank {rank} of {size}: rank 0 writes and prints", flush=True)
    return rank == 0


@dataclass(frozen=True)
class _Stored:
    """A checkpoint to resume from."""

    path: Path
    position: Position
    values: dict[str, Any]


def _read_stored(requested: Path) -> _Stored:
    path = state_file_of(find_checkpoint(requested))
    if not path.is_file():
        raise UserError(
            f"{shown(path)}: no such file; an exact resume needs the training state beside the "
            "weights"
        )
    try:
        return _Stored(path, *read_state(path))
    except UserError as error:
        earlier = earlier_checkpoint(path)
        if earlier is None:
            raise
        advice = f"{error} (--resume_ckpt {earlier})"
        raise UserError(advice if len(advice) <= 300 else f"{error} ({earlier.name})") from None


def _run(session: Session, folder: RunFolder | None, position: Position, stop: StopRequest) -> int:
    if folder is not None:
        # Metrics without any row beside a configuration mean: nothing to lose yet.
        folder.write_metrics(position.metrics if list_checkpoints(folder.path) else [])
        folder.write_config(session.config.to_yaml())
        for name, content in session.config.task.kept(session.train_data).items():
            folder.write(name, content)
        print(f"run folder: {folder.path}", flush=True)
        stop.farewell = (
            "stopped by a signal before the first update: nothing to save, start with the same "
            "command again"
        )
    trainer = Trainer(session, folder, position, stop)
    trainer.run()
    # The signal may have reached another rank only.
    code = (stop.exit_code or EXIT_TERMINATED) if trainer.stopped else 0
    tested = None if trainer.stopped else _test(session, folder, stop)
    if folder is None:
        return code
    checkpoint = folder.checkpoint(position.epoch, position.step)
    if trainer.stopped:
        folder.write_metrics(position.metrics)
        print(f"stopped by a signal; continue with --resume_ckpt {checkpoint}", flush=True)
        return code
    print(trainer.summary())
    print(f"checkpoint: {checkpoint}", flush=True)
    if tested is not None:
        print(_result(tested, checkpoint), flush=True)
    return 0


def _test(session: Session, folder: RunFolder | None, stop: StopRequest) -> dict[str, float] | None:
    """Measure a finished run on the test split, where there is one; all ranks do it together."""
    if session.test_data is None:
        return None
    config = session.config
    evaluation = config.task.final(session.net, session.test_data, config.data)
    keep_graphs(evaluation, session.step.store, session.step)
    measured = evaluation(stop.requested if world()[1] == 1 else None)
    if folder is not None:
        for name, text in evaluation.files.items():
            folder.write(name, text.encode("utf-8"))
        _print_signature(evaluation)
    return measured


def _print_signature(evaluation: Any) -> None:
    """Say how the scores were computed, where there is more than one way."""
    signature = getattr(evaluation, "signature", "")
    if signature:
        print(f"signature: {signature}", flush=True)


def _result(measured: Mapping[str, float], checkpoint: Path) -> str:
    """The line of the model zoo."""
    rounded = {name: round(value, 6) for name, value in measured.items()}
    return f"result: {rounded} ckpt= {checkpoint}"


def _evaluate(argv: Sequence[str] | None, models: ModelCatalogue) -> int:
    parser = make_parser("eval.py", "Measure a checkpoint on the evaluation split.")
    add_checkpoint(parser)
    checkpoint, config = chosen_checkpoint(*read_arguments(parser, argv), models)
    prepare_device(config)
    leads = announce_rank()
    data = open_data(config, TEST, checkpoint.parent)
    config = fit_to_data(config, data, models)
    net = models.create_model(config.model.name, **config.model.options)
    load_weights(net, checkpoint)
    evaluation = config.task.final(net, data, config.data)
    keep_graphs(evaluation, cache_of(config))
    measured = evaluation()
    assert measured is not None
    if leads:
        _print_signature(evaluation)
        print(_result(measured, checkpoint), flush=True)
    return 0
