"""What all command lines share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mindspore_thor.command_line import (
    EXIT_USER,
    Parser,
    one_line_errors,
    path_argument,
    path_text,
    report_error,
    whole_number,
    whole_numbers,
)
from mindspore_thor.errors import TrainingError, UserError, quoted


def test_numbers_with_commas() -> None:
    assert whole_numbers("8, 256,1") == [8, 256, 1]


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-1", "1.5", "1,2", "000", str(10**9 + 1), "9" * 400, "9" * 5000]
)
def test_other_numbers_are_refused(text: str) -> None:
    assert whole_number(" 12") == whole_number("012") == 12
    assert whole_number(str(10**9)) == 10**9
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number of at least 1"):
        whole_number(text)


@pytest.mark.parametrize("text", ["", "x", "8,", "8,,2", "0", "-1", "1.5", "8," + "9" * 5000])
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


def test_an_error_of_any_length_becomes_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(error: Exception) -> str:
        report_error(error)
        return capsys.readouterr().err

    for kind in (UserError, TrainingError):
        line = printed(kind("first: " + "x\n" * 100_000 + "; the remedy"))
        assert len(line) <= 300
        assert line.startswith("error: first: x")
        assert line.endswith("x ; the remedy\n")
        assert line.count("\n") == 1
        line = printed(kind("a \x1b[31m\x00\u202e\udcff b"))
        assert line == "error: a \\x1b[31m\\x00\\u202e\\udcff b\n"
    kept = "k" * 290
    assert printed(UserError(kept)) == f"error: {kept}\n"


def test_what_is_quoted_is_short_and_says_what_it_is() -> None:
    assert quoted("it's") == repr("it's")
    assert quoted([1, (2.5, None)]) == "[1, (2.5, None)]"
    assert quoted(-(10**30) + 1) == str(-(10**30) + 1)
    assert quoted(10**400) == "<whole number of about 401 digits>"
    assert quoted(10**5000) == "<whole number of about 5001 digits>"
    endless: list[object] = []
    endless.append(endless)
    for value in ("x" * 10**6, [["y" * 999] * 999] * 999, endless, {"a" * 999: "b" * 999}):
        assert len(quoted(value)) <= 80
        assert quoted(value).isprintable()


def test_a_path_is_something(tmp_path: Path) -> None:
    assert path_argument("no/such/file") == Path("no/such/file")
    assert path_text("2024") == "2024"
    (tmp_path / "loop").symlink_to("loop")
    for text in ("", " ", "\t\n", "a\0b", "x" * 5000, str(tmp_path / "loop" / "y")):
        with pytest.raises(argparse.ArgumentTypeError, match="; give a"):
            path_argument(text)


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
