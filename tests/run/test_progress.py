"""What a run says: a bar on a terminal that tears no line, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from mindspore_thor.run.progress import Progress

ROW = {
    "epoch": 1,
    "loss": 0.25,
    "train_time": 1.5,
    "step_ms": 375.0,
    "skipped": 0,
    "top_1_accuracy": 0.5,
}
EPOCH_LINES = [
    "epoch: [1/2] loss: 0.250000, epoch time: 1.500 s, per step time: 375.000 ms",
    "epoch: [1/2] top_1_accuracy: 0.5000",
]


class Terminal(io.StringIO):
    """Takes what both streams print, as a terminal does."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Return the lines that a reader sees: a carriage return writes over what was there."""
        lines, column = [""], 0
        for sign in self.getvalue():
            if sign == "\n":
                lines.append("")
                column = 0
            elif sign == "\r":
                column = 0
            else:
                assert sign.isprintable()  # no other control characters, or this is no screen
                line = lines[-1].ljust(column)
                lines[-1] = line[:column] + sign + line[column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called within the test: pytest puts its own streams in place after the fixtures."""
    stream = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", stream)
    return stream


def train(progress: Progress) -> None:
    """One epoch of four updates, with a message after the second one."""
    progress.start_epoch(1, 0)
    for step in (1, 2, 3, 4):
        progress.step(1, step, 0.25, 0, 375.0)
        if step == 2:
            progress.message("a note")
    progress.finish_epoch(ROW)


def test_a_terminal_has_a_bar_and_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    progress = Progress(2, 4, log_every=2)
    progress.start_epoch(1, 1)
    (shown,) = terminal.screen()
    assert shown.startswith("epoch 1/2:  25%|") and "| 1/4 [" in shown
    progress.message("a note")
    assert terminal.screen() == ["a note", ""]
    progress.step(1, 2, 0.25, 3, 375.0)
    progress._bar.refresh()  # by itself it redraws ten times a second at most
    note, shown = terminal.screen()
    assert note == "a note"
    assert "| 2/4 [" in shown and "loss=0.250000, skipped=3]" in shown
    progress.finish_epoch(ROW)
    assert terminal.screen() == ["a note", *EPOCH_LINES, ""]  # and nothing of the bar


def test_the_lines_within_an_epoch_are_the_bars_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    train(Progress(2, 4, log_every=2))
    assert "epoch 1/2:" in terminal.getvalue()
    assert terminal.screen() == ["a note", *EPOCH_LINES, ""]


def test_without_a_terminal_there_are_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    train(Progress(2, 4, log_every=2))
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        "epoch: [1/2] step: [2/4] loss: 0.250000, per step time: 375.000 ms",
        "a note",
        *EPOCH_LINES,
    ]


def test_a_quiet_rank_says_nothing_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    train(Progress(2, 4, log_every=2, quiet=True))
    assert terminal.getvalue() == ""
