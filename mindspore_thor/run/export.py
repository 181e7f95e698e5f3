"""The command line of ``export.py``: a checkpoint's net as MindIR or ONNX.

The names of the options are the model zoo's. What is written is read again and compared with the
net before it gets its name: MindSpore 2.10 writes some ONNX files that nobody can read.
"""

from __future__ import annotations

import argparse
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.command_line import path_argument, whole_number
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file
from mindspore_thor.run.build import fit_model, prepare_device
from mindspore_thor.run.checkpoint import load_weights
from mindspore_thor.run.commands import (
    add_checkpoint,
    announce_rank,
    chosen_checkpoint,
    guarded,
    make_parser,
    read_arguments,
)
from mindspore_thor.run.config import ModelCatalogue

SUFFIXES = {"MINDIR": ".mindir", "ONNX": ".onnx"}
"""Formats, with what the file's name ends in."""

MOST_BATCH = 16384

_DIFFERENCE = 1e-2
"""Of the largest output: devices may convolve in half precision; a wrong file is off by all."""

_CHUNK = 1 << 24

Run = Callable[[tuple[np.ndarray, ...]], np.ndarray]


def export_main(argv: Sequence[str] | None, models: ModelCatalogue) -> int:
    """Run ``export.py``.

    Args:
        argv: Arguments, without the program's name; None for the process's own.
        models: The models to choose from.

    Returns:
        Exit code: 0 done, 2 wrong input, or a net that the format cannot hold.
    """
    return guarded(lambda: _export(argv, models))


def _batch_size(text: str) -> int:
    value = whole_number(text)
    if value > MOST_BATCH:
        raise argparse.ArgumentTypeError(f"{value}; give at most {MOST_BATCH}")
    return value


def _export(argv: Sequence[str] | None, models: ModelCatalogue) -> int:
    parser = make_parser("export.py", "Write a checkpoint's net as MindIR or ONNX.")
    add_checkpoint(parser)
    parser.add_argument(
        "--file_format", type=str.upper, choices=tuple(SUFFIXES), default="MINDIR", help="[MINDIR]"
    )
    parser.add_argument(
        "--file_name",
        type=path_argument,
        help="file to write; its ending may be left out [the checkpoint's name, beside it]",
    )
    parser.add_argument(
        "--batch_size", type=_batch_size, default=1, help="samples of the exported graph [1]"
    )
    arguments, overrides = read_arguments(parser, argv)
    checkpoint, config = chosen_checkpoint(arguments, overrides, models)
    file_format = arguments.file_format
    path = target(arguments.file_name, checkpoint, file_format)
    prepare_device(config)
    if not announce_rank():
        return 0
    task = config.task
    known = task.known_options(config.data, checkpoint.parent)
    config = fit_model(config, known, models)
    net = models.create_model(config.model.name, **config.model.options)
    load_weights(net, checkpoint)
    try:
        inputs = task.example({**known, **config.model.options}, arguments.batch_size)
        output, checked = export_net(net, inputs, path, file_format)
    except MemoryError:
        raise UserError("the memory is not enough for a batch; lower --batch_size") from None
    for name, value in zip(input_names(net), inputs):
        print(f"input {name}: {value.dtype} {list(value.shape)}")
    print(f"inputs are {task.describe_inputs(config.data)}")
    print(f"output: {output.dtype} {list(output.shape)}")
    print(checked)
    print(f"exported: {path}", flush=True)
    return 0


def target(requested: Path | None, checkpoint: Path, file_format: str) -> Path:
    """Return the file to write.

    Args:
        requested: ``--file_name``, or None.
        checkpoint: The weights file.
        file_format: One of :data:`SUFFIXES`.

    Raises:
        UserError: If something is there, no folder is, or the name ends like another format's.
    """
    suffix = SUFFIXES[file_format]
    path = requested if requested is not None else checkpoint.with_suffix("")
    if path.suffix in SUFFIXES.values() and path.suffix != suffix:
        raise UserError(
            f"--file_name {shown(path)} ends in {path.suffix}, but --file_format is "
            f"{file_format}; change one of them"
        )
    if path.suffix != suffix:
        path = path.with_name(path.name + suffix)
    if not path.parent.is_dir():
        raise UserError(
            f"{shown(path.parent)}: no such folder; make it, or give another --file_name"
        )
    _refuse_existing(path)
    return path


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UserError(f"{shown(path)}: is there already; remove it, or give another --file_name")


def input_names(net: nn.Cell) -> list[str]:
    """Return the names that the inputs have in an exported file: those of ``construct``.

    Args:
        net: The net.
    """
    return list(inspect.signature(net.construct).parameters)


def export_net(
    net: nn.Cell, inputs: tuple[np.ndarray, ...], path: Path, file_format: str
) -> tuple[np.ndarray, str]:
    """Write a net into a file, complete or not at all, and compare the two.

    Args:
        net: The net, as it is evaluated; dropout and batch statistics are off in the file.
        inputs: Its inputs, of the shapes that the file is for.
        path: The file. Beyond 1 GB MindSpore puts the weights into files beside it.
        file_format: One of :data:`SUFFIXES`.

    Returns:
        What the net makes of the inputs, and a sentence about what the file makes of them.

    Raises:
        UserError: If MindSpore cannot write such a net in this format, if what it wrote cannot be
            read or computes something else, or if the system refuses.
    """
    training = bool(net.training)
    net.set_train(False)
    try:
        with tempfile.TemporaryDirectory(prefix="mindspore_thor-export-") as name:
            # MindSpore refuses names with other characters.
            stem = re.sub(r"[^0-9A-Za-z_.-]", "_", path.stem)
            suffix = SUFFIXES[file_format]
            _write(net, inputs, Path(name) / f"{stem}{suffix}", file_format)
            files = sorted(file for file in Path(name).rglob("*") if file.is_file())
            graph = next(file for file in files if file.suffix == suffix)
            made = net(*(Tensor(value) for value in inputs))
            if isinstance(made, tuple):
                raise UserError(
                    f"{type(net).__name__} has {len(made)} outputs, but a file is compared by one: "
                    "give mindspore.export a cell that returns the one you need"
                )
            expected = made.asnumpy()
            checked = _compared(graph, inputs, expected, file_format, type(net).__name__)
            places = {file: path.parent / file.relative_to(name) for file in files}
            if len(files) == 1:
                places = {graph: path}
            for place in places.values():
                _refuse_existing(place)
            for file, place in places.items():
                place.parent.mkdir(exist_ok=True)
                write_file(place, _chunks(file), file.stat().st_size)
    finally:
        net.set_train(training)
    return expected, checked


def _write(net: nn.Cell, inputs: tuple[np.ndarray, ...], path: Path, file_format: str) -> None:
    tensors = [Tensor(value) for value in inputs]
    with _one_line(f"MindSpore cannot write {type(net).__name__} as {file_format}"):
        level = ms.get_context("jit_syntax_level")
        try:
            # Not ms.onnx.export: that of 2.10 fails on embeddings.
            ms.export(net, *tensors, file_name=str(path), file_format=file_format)
        finally:
            ms.set_context(jit_syntax_level=level)  # which an export that fails leaves changed


@contextmanager
def _one_line(problem: str) -> Iterator[None]:
    """Turn what a foreign library raises into one line."""
    try:
        yield
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise UserError(f"{problem}: {reason}; try another --file_format") from None


def _compared(
    file: Path,
    inputs: tuple[np.ndarray, ...],
    expected: np.ndarray,
    file_format: str,
    name: str,
) -> str:
    """Read a file again, and say how far its output is from the net's."""
    reader = "MindSpore" if file_format == "MINDIR" else "onnxruntime"
    run: Run
    with _one_line(f"what MindSpore wrote of {name} as {file_format} cannot be run by {reader}"):
        if file_format == "MINDIR":
            run = _mindir(file)
        else:
            try:
                run = _onnx(file)
            except ModuleNotFoundError:
                return "not checked: pip install 'mindspore_thor[onnx]' brings onnxruntime"
        found = run(inputs)
    if not np.isfinite(expected).all():
        raise UserError(f"the outputs of {name} are not finite: export another checkpoint")
    scale = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= _DIFFERENCE * scale:
        raise UserError(
            f"what MindSpore wrote of {name} as {file_format} computes something else in {reader} "
            f"(off by {difference:.3g}, outputs up to {scale:.3g}); try another --file_format"
        )
    return f"checked with {reader}: off by {difference:.3g} at most, outputs up to {scale:.3g}"


def _mindir(file: Path) -> Run:
    loaded = nn.GraphCell(ms.load(str(file)))
    return lambda inputs: loaded(*(Tensor(value) for value in inputs)).asnumpy()


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session: Any = onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs)))[0]


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk
