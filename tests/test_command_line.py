"""What all command lines share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mindspore_thor.command_line import (
    EXIT_USER,
    Parser,
    one_line_errors,
    whole_number,
    whole_numbers,
)
from mindspore_thor.errors import TrainingError, UserError


def test_numbers_with_commas() -> None:
    assert whole_numbers("8, 256,1") == [8, 256, 1]


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1.5", "1,2"])
def test_other_numbers_are_refused(text: str) -> None:
    assert whole_number(" 12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number of at least 1"):
        whole_number(text)


@pytest.mark.parametrize("text", ["", "x", "8,", "8,,2", "0", "-1", "1.5"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole numbers of at least 1"):
        whole_numbers(text)


def test_a_wrong_argument_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main(arguments: list[str]) -> int:
        parser = Parser()
        parser.add_argument("--ranks", type=whole_numbers, default="8,256")
        return sum(parser.parse_args(arguments).ranks)

    assert main([]) == 264
    assert main(["--ranks", "x"]) == EXIT_USER == 2
    assert main(["--rank", "1"]) == EXIT_USER  # no abbreviations
    printed = capsys.readouterr()
    assert printed.out == ""
    first, second = printed.err.splitlines()
    assert first.startswith("error: ") and "--ranks" in first and "'x'" in first
    assert second.startswith("error: ") and "--rank" in second


def test_an_error_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main() -> int:
        raise UserError("a:\n  b;\n  use c")

    assert main() == EXIT_USER
    assert capsys.readouterr().err == "error: a: b; use c\n"


def test_an_interruption_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def main() -> int:
        raise KeyboardInterrupt

    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_other_errors_are_not_hidden() -> None:
    @one_line_errors
    def main() -> int:
        raise TrainingError("diverged")

    with pytest.raises(TrainingError):
        main()


def test_a_defect_of_ours_is_no_missing_package() -> None:
    @one_line_errors
    def main(name: str | None) -> int:
        raise ModuleNotFoundError("No module", name=name)

    assert main("yaml") == EXIT_USER
    for name in ("mindspore_thor.trian", "models", "mindspore.nothing", None):
        with pytest.raises(ModuleNotFoundError):
            main(name)


def test_a_file_that_the_system_refuses_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @one_line_errors
    def main() -> int:
        tmp_path.read_bytes()  # a folder; permissions would not stop a test that root runs
        return 0

    assert main() == EXIT_USER
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: '{tmp_path}': Is a directory; ")


@pytest.mark.parametrize("error", [OSError("no file"), OSError(5, "I/O error", 3)])
def test_a_system_error_without_a_file_is_not_hidden(error: OSError) -> None:
    @one_line_errors
    def main() -> int:
        raise error

    with pytest.raises(OSError):
        main()
