"""Files are written whole or not at all, through nobody else's link, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mindspore_thor import files
from mindspore_thor.errors import UserError
from mindspore_thor.files import remove_leftovers, shown, write_file


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    ours = [".mlp-1_4.ckpt.0123456789abcdef.part", ".config.yaml.00000000000000ff.part"]
    others = [".x.part", "a.0123456789abcdef.part", ".config.yaml", ".x.0123456789ABCDEF.part"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    # These are the names that a write really uses.
    seen: list[str] = []

    def chunks() -> Iterator[bytes]:
        seen.extend(path.name for path in tmp_path.iterdir())
        yield b"content"
        remove_leftovers(tmp_path)

    with pytest.raises(UserError, match="No such file"):
        write_file(tmp_path / "config.yaml", chunks(), 7)
    assert len(seen) == len(others) + 1


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "run" / "config.yaml"
    target.parent.mkdir()
    target.symlink_to(victim)
    write_file(target, [b"new"], 3)
    assert target.read_bytes() == b"new" and not target.is_symlink()
    # Even where the name could be guessed.
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    planted = target.with_name(f".config.yaml.{'0' * 16}.part")
    planted.symlink_to(victim)
    with pytest.raises(UserError, match="File exists"):
        write_file(target, [b"newer"], 5)
    assert victim.read_text() == "precious" and target.read_bytes() == b"new"


def test_quoted_text_is_short_and_printable() -> None:
    assert shown("plain/path.ckpt") == "plain/path.ckpt"
    long = "a" * 500 + "/name.ckpt"
    assert len(shown(long)) == 100 and shown(long).endswith("/name.ckpt")
    hostile = shown("a\nb\x1b[0m\u202e\0" + "\ud800")
    assert hostile.isprintable() and hostile.startswith("a\\nb")
