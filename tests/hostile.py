"""What the tests of damaged and harmful files share."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mindspore_thor.errors import UserError

quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# One change: where (as a share of the length), what is written there, and how much is cut off.
changes = st.lists(
    st.tuples(st.floats(0, 1), st.binary(min_size=0, max_size=6), st.integers(0, 12)), max_size=3
)


def changed(content: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """Overwrite some places of the content, and cut some bytes out after each."""
    for place, put, cut in edits:
        start = round(place * len(content))
        content = content[:start] + put + content[start + len(put) + cut :]
    return content


def line(error: Any) -> str:
    """Check that an error is one short printable line, and return it."""
    text = str(error.value if hasattr(error, "value") else error)
    assert text.isprintable() and 20 < len(text) <= 300, text
    return text


def result(read: Callable[[], Any]) -> Any:
    """Return what is read, or None where it is refused as it should be."""
    try:
        return read()
    except UserError as error:
        line(error)
        return None


def png(
    depth: int, kind: int, row: bytes, width: int, *, extra: bytes = b"", height: int = 1
) -> bytes:
    """Return a PNG; ``kind`` is the format's number of the colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b"")
