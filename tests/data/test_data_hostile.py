"""Files made to harm: whatever the bytes, sound data or one line, and nothing run or filled up."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import changed, changes, line, png, quick, result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mindspore_thor.data import create_data
from mindspore_thor.data.cifar import read_cifar_file
from mindspore_thor.data.idx import read_idx, read_idx_set
from mindspore_thor.data.image_file import read_image
from mindspore_thor.errors import UserError


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


@quick
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.lists(st.sampled_from([0, 1, 28, 2**31, 2**32 - 1]), max_size=3),
    changes,
    changes,
    st.booleans(),
)
def test_idx_is_read_as_it_stands_or_refused(
    tmp_path: Path, shape: list[int], dims: list[int], inside: Any, outside: Any, zipped: bool
) -> None:
    array = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    content = idx_bytes(array)
    header = struct.pack(f">{len(dims)}I", *dims)
    content = changed(content[:4] + header + content[4 + len(header) :], inside)
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(changed(gzip.compress(content), outside) if zipped else content)
    found = result(lambda: read_idx(path, len(shape)))
    if found is not None:
        unpacked = gzip.decompress(path.read_bytes()) if zipped else content
        assert idx_bytes(found) == unpacked
    elif not dims and not inside and not outside:
        pytest.fail("a sound file is refused")


@quick
@given(st.integers(0, 3), st.sampled_from([1, 2]), st.integers(-2, 2))
def test_cifar_is_read_as_it_stands_or_refused(
    tmp_path: Path, count: int, label_bytes: int, more: int
) -> None:
    size = max(0, count * (label_bytes + 3072) + more)
    content = np.random.default_rng(count).integers(0, 256, size, np.uint8).tobytes()
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    found = result(lambda: read_cifar_file(path, label_bytes))
    assert (found is not None) == (count > 0 and more == 0)
    if found is not None:
        images, labels = found
        assert images.shape == (count, 3, 32, 32)
        for number in range(count):
            record = content[number * (label_bytes + 3072) :][: label_bytes + 3072]
            assert images[number].tobytes() == record[label_bytes:]
            assert labels[number] == record[label_bytes - 1]


@quick
@given(
    st.sampled_from([("png", m) for m in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")])
    | st.sampled_from([("jpeg", "L"), ("jpeg", "RGB"), ("jpeg", "CMYK"), ("bmp", "RGB")])
    | st.sampled_from([("webp", "RGBA"), ("gif", "P"), ("tiff", "RGB"), ("eps", "RGB")]),
    changes,
)
def test_an_image_has_three_channels_of_bytes_or_is_refused(
    tmp_path: Path, kind: tuple[str, str], edits: Any
) -> None:
    name, mode = kind
    buffer = io.BytesIO()
    Image.new(mode, (7, 5), 1 if mode in ("1", "L", "P", "I;16") else None).save(buffer, name)
    path = tmp_path / "x.JPEG"
    path.write_bytes(changed(buffer.getvalue(), edits))
    image = result(lambda: read_image(path))
    if image is not None:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not edits:
        assert (image is None) == (name in ("gif", "tiff", "eps"))


# Pixels: the value of each kind of PNG by the format's own rules (sections 11.2.2 and 13.12).


def palette() -> bytes:
    colours, alpha = bytes([9, 8, 7, 200, 100, 50]), bytes([0, 128])
    return b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"PLTE", colours), (b"tRNS", alpha))
    )


WIDE = np.array([0, 1, 128, 129, 255, 256, 257, 1000, 32767, 32768, 65407, 65535])


@pytest.mark.filterwarnings("error")
def test_every_kind_of_png_gets_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "x.png"

    def pixels(content: bytes) -> np.ndarray:
        path.write_bytes(content)
        return read_image(path)[0].astype(float)

    grey = pixels(png(16, 0, WIDE.astype(">u2").tobytes(), 12))
    # value * 255 / 65535, to the nearest.
    np.testing.assert_array_equal(grey, np.repeat(np.round(WIDE / 257)[:, None], 3, 1))
    colour = pixels(png(16, 2, WIDE.astype(">u2").tobytes(), 4))
    np.testing.assert_allclose(colour, WIDE.reshape(4, 3) / 257, rtol=0, atol=1)
    with_alpha = pixels(png(16, 6, WIDE.astype(">u2").tobytes(), 3))
    np.testing.assert_allclose(with_alpha, WIDE.reshape(3, 4)[:, :3] / 257, rtol=0, atol=1)
    grey_alpha = pixels(png(16, 4, WIDE.astype(">u2").tobytes(), 6))
    np.testing.assert_allclose(grey_alpha, np.repeat(WIDE[::2, None], 3, 1) / 257, rtol=0, atol=1)
    np.testing.assert_array_equal(pixels(png(1, 0, b"\xa0", 3)), [[255] * 3, [0] * 3, [255] * 3])
    np.testing.assert_array_equal(pixels(png(2, 0, b"\x1b", 4))[:, 0], [0, 85, 170, 255])
    np.testing.assert_array_equal(pixels(png(8, 4, bytes([77, 0, 5, 255]), 2))[:, 1], [77, 5])
    np.testing.assert_array_equal(pixels(png(8, 6, bytes([1, 2, 3, 0]), 1)), [[1, 2, 3]])
    found = pixels(png(8, 3, bytes([1, 0]), 2, extra=palette()))
    np.testing.assert_array_equal(found, [[200, 100, 50], [9, 8, 7]])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    # Ink c, m, y, k leaves (1 - ink)(1 - k) of each colour.
    ink = np.array([40, 200, 90, 60])
    Image.new("CMYK", (16, 16), tuple(ink.tolist())).save(tmp_path / "x.jpg", quality=100)
    expected = (255 - ink[:3]) * (255 - ink[3]) / 255
    np.testing.assert_allclose(
        read_image(tmp_path / "x.jpg"), np.broadcast_to(expected, (16, 16, 3)), rtol=0, atol=3
    )


def test_no_program_is_started_for_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.JPEG")
    with pytest.raises(UserError, match=r"cannot be read as an image .*JPEG, PNG") as caught:
        read_image(tmp_path / "x.JPEG")
    line(caught)
    assert not marker.exists()


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    labels, images = tmp_path / "train-labels-idx1-ubyte.gz", tmp_path / "train-images-idx3-ubyte"
    many = bytes(1 << 25)
    one = np.zeros(1, np.uint8)
    picture = tmp_path / "x.png"
    picture.write_bytes(png(8, 0, b"", 1 << 16, height=1 << 16))
    zipped = {
        "goes on": (idx_bytes(one) + many, "at least 10 bytes instead of 9"),
        "announces": (struct.pack(">II", 0x0801, 2**32 - 1) + many, "would unpack from"),
    }
    packed = {name: (gzip.compress(data, 1), words) for name, (data, words) in zipped.items()}
    tracemalloc.start()
    try:
        for content, words in packed.values():
            labels.write_bytes(content)
            with pytest.raises(UserError, match=words) as caught:
                read_idx(labels, 1)
            line(caught)
        # The header's size is compared before anything is made for it.
        labels.write_bytes(gzip.compress(idx_bytes(one)))
        for shape in ((2**32 - 1, 28, 28), (0, 2**32 - 1, 2**32 - 1), (1, 0, 28), (0, 28, 28)):
            images.write_bytes(struct.pack(">IIII", 0x0803, *shape))
            with pytest.raises(UserError, match=r"damaged|pixels|0 images") as caught:
                read_idx_set(tmp_path, True)
            line(caught)
        with pytest.raises(UserError, match="exceeds limit") as caught:
            read_image(picture)
        line(caught)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


# Trees.


def tree(root: Path) -> Path:
    for name in ("a", "b"):
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(root / "val" / name / "x.png")
    return root


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        list(create_data("imagenet", root, train=False, batch_size=2, image_size=8).epoch(0))
    return line(caught)


def test_what_is_no_image_file_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tree(tmp_path) / "val/a"
    odd = folder / "y.JPEG"
    odd.symlink_to("y.JPEG")
    assert "y.JPEG' cannot be read (Too many levels of symbolic links)" in refused(tmp_path)
    odd.unlink()
    odd.symlink_to("gone")
    assert "y.JPEG' cannot be read (No such file" in refused(tmp_path)
    odd.unlink()
    os.mkfifo(odd)
    assert "y.JPEG' is not a regular file" in refused(tmp_path)
    odd.unlink()
    odd.mkdir()  # left out, as every folder below a class is
    assert create_data("imagenet", tmp_path, train=False, batch_size=2).size == 2
    (tmp_path / "val/c").symlink_to("c")
    assert "val/c' cannot be read (Too many levels" in refused(tmp_path)
    (tmp_path / "val/c").unlink()
    (tmp_path / "val/c").symlink_to(tmp_path)  # a tree that contains itself is not walked through
    assert "val/c' has no images" in refused(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "does not exist" in refused(tmp_path / "loop")
    assert "cannot be read (File name too long)" in refused(tmp_path / ("x" * 999))


@pytest.mark.parametrize(
    "name", ["x\ny\x1b[2J\u202e.JPEG", "\udcff\udc80.JPEG", "x" * 240 + ".JPEG"]
)
def test_a_hostile_name_leaves_the_message_whole(tmp_path: Path, name: str) -> None:
    """The pipeline hands the error on as a text, which ends at a line feed."""
    (tree(tmp_path) / "val/a" / name).write_bytes(b"no image")
    text = refused(tmp_path)
    assert text.endswith("replace or remove the file") and "JPEG' cannot be read" in text


def test_a_thin_image_is_not_scaled_beyond_all_bounds(tmp_path: Path) -> None:
    Image.new("1", (1, 60000)).save(tree(tmp_path) / "val/a/y.png")
    with pytest.raises(UserError, match=r"y\.png' has 60000x1 pixels, too thin") as caught:
        list(create_data("imagenet", tmp_path, train=False, batch_size=2).epoch(0))
    line(caught)


@pytest.mark.parametrize(
    "options",
    [{"name": "\n" * 500}, {"batch_size": 2**31}, {"image_size": 10**9}, {"seed": "1\n" * 400}],
)
def test_hostile_arguments(tmp_path: Path, options: dict[str, Any]) -> None:
    given = {"name": "imagenet", "path": tree(tmp_path), "train": False, "batch_size": 2}
    with pytest.raises(UserError) as caught:
        create_data(**{**given, **options})
    line(caught)
