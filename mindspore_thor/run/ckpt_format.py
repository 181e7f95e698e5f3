"""MindSpore's checkpoint format, read and written by our own code.

``ms.load_checkpoint`` hands the stored sizes and types to C++ unchecked: a damaged file can end the
process. Here nothing becomes an array before its sizes, its type and its data agree.

A file is a sequence of entries (protobuf messages, MindSpore's own schema) with MindSpore's CRC at
the end. Files of this package begin with a seal, a field that MindSpore's reader passes over: the
SHA-256 of all entries. It tells a changed file from a sound one even where the CRC is cut off.
"""

from __future__ import annotations

import binascii
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype
from mindspore.train.checkpoint_pb2 import Checkpoint

CRC_MARK = b"crc_num"
CRC_BYTES = len(CRC_MARK) + 10
# Field 1000, 46 bytes: this name and a SHA-256.
SEAL_MARK = b"\xc2\x3e\x2e" + b"mindspore_thor"
SEAL_BYTES = len(SEAL_MARK) + 32
_ENTRY = b"\x0a"  # field 1, of known length
_SLICE = 1 << 29  # MindSpore's: larger tensors are stored in pieces, a message has at most 2 GiB
_MAX_MESSAGE = (1 << 31) - 1
_MAX_RANK = 8
_TEXT = "str"
_BFLOAT16 = "BFloat16"
_TYPES: dict[str, np.dtype] = {
    name: np.dtype(name.lower())
    for name in (
        *("Bool", "Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64"),
        *("UInt8", "UInt16", "UInt32", "UInt64"),
    )
}
_TYPES[_BFLOAT16] = np.dtype(np.uint16)  # NumPy has none


class DamagedError(ValueError):
    """The bytes are no sound checkpoint; the message says where."""


@dataclass
class Contents:
    """What a checkpoint file holds.

    Attributes:
        values: Tensors and texts by name.
        digest: SHA-256 of the entries, in hexadecimal digits.
        sealed: Whether the file bears this digest itself.
    """

    values: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    sealed: bool = False


def encode(parameters: Mapping[str, Parameter], texts: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the entries of a file.

    Args:
        parameters: Parameters by name.
        texts: Texts by name.
    """
    for name, parameter in parameters.items():
        parameter.init_data()
        raw = parameter.get_bytes()
        for first in range(0, len(raw), _SLICE):
            part = raw[first : first + _SLICE]
            yield _entry(name, parameter.shape, str(parameter.dtype), part)
    for name, text in texts.items():
        yield _entry(name, (0,), _TEXT, np.array(text).tobytes())


def _entry(name: str, shape: tuple[int, ...], kind: str, raw: bytes) -> bytes:
    message = Checkpoint()
    value = message.value.add()
    value.tag = name
    value.tensor.dims.extend(shape)
    value.tensor.tensor_type = kind
    value.tensor.tensor_content = raw
    return bytes(message.SerializeToString())


def digest_of(parameters: Mapping[str, Parameter], texts: Mapping[str, str]) -> str:
    """Return the digest of the file that :func:`encode` would make, in hexadecimal digits.

    Args:
        parameters: Parameters by name.
        texts: Texts by name.
    """
    digest = hashlib.sha256()
    for entry in encode(parameters, texts):
        digest.update(entry)
    return digest.hexdigest()


def encode_file(parameters: Mapping[str, Parameter], texts: Mapping[str, str]) -> Iterator[bytes]:
    """Yield a whole file: seal, entries, CRC.

    Args:
        parameters: Parameters by name.
        texts: Texts by name.
    """
    seal = SEAL_MARK + bytes.fromhex(digest_of(parameters, texts))
    crc = binascii.crc32(seal)
    yield seal
    for entry in encode(parameters, texts):
        crc = binascii.crc32(entry, crc)
        yield entry
    yield CRC_MARK + crc.to_bytes(10, "big")


def decode_file(stream: BinaryIO) -> Contents:
    """Read a whole file.

    Args:
        stream: Seekable; read from its beginning.

    Returns:
        What it holds.

    Raises:
        DamagedError: If any part does not fit another, or the seal or the CRC is wrong.
    """
    size = stream.seek(0, 2)
    end, stated_crc = _end(stream, size)
    stream.seek(0)
    head = stream.read(min(SEAL_BYTES, end))
    sealed = len(head) == SEAL_BYTES and head.startswith(SEAL_MARK)
    if not sealed:
        stream.seek(0)
        head = b""
    reader = _Reader(stream, end - len(head), binascii.crc32(head))
    contents = Contents(reader.values(), reader.digest.hexdigest(), sealed)
    if stated_crc is not None and stated_crc != reader.crc:
        raise DamagedError("its CRC is wrong")
    if sealed and head[len(SEAL_MARK) :] != reader.digest.digest():
        raise DamagedError("its digest is wrong")
    return contents


def _end(stream: BinaryIO, size: int) -> tuple[int, int | None]:
    """Return where the entries end, and the CRC that is stated behind them."""
    if size >= CRC_BYTES:
        stream.seek(size - CRC_BYTES)
        tail = stream.read(CRC_BYTES)
        if tail.startswith(CRC_MARK):
            return size - CRC_BYTES, int.from_bytes(tail[len(CRC_MARK) :], "big")
    return size, None


class _Reader:
    """Reads entries and keeps the sums over them."""

    def __init__(self, stream: BinaryIO, left: int, crc: int) -> None:
        self.digest = hashlib.sha256()
        self.crc = crc
        self._stream = stream
        self._left = left

    def values(self) -> dict[str, Any]:
        """Read all entries; pieces of one tensor stand one behind the other."""
        found: dict[str, Any] = {}
        name, parts = "", list[bytes]()
        header: tuple[tuple[int, ...], str] | None = None
        while self._left:
            tag, this, raw = self._next()
            if parts and (tag, this) == (name, header) and this[1] != _TEXT:
                parts.append(raw)
                continue
            if header is not None:
                found[name] = _value(name, *header, b"".join(parts))
            if tag in found or tag == name:
                raise DamagedError(f"{tag} is stored twice")
            name, header, parts = tag, this, [raw]
        if header is not None:
            found[name] = _value(name, *header, b"".join(parts))
        return found

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise DamagedError("it ends too early")
        raw = self._stream.read(count)
        if len(raw) != count:
            raise DamagedError("it ends too early")
        self._left -= count
        self.crc = binascii.crc32(raw, self.crc)
        self.digest.update(raw)
        return raw

    def _length(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DamagedError("an entry is too long")

    def _next(self) -> tuple[str, tuple[tuple[int, ...], str], bytes]:
        if self._take(1) != _ENTRY:
            raise DamagedError("there is something between its entries")
        length = self._length()
        if length > _MAX_MESSAGE:
            raise DamagedError("an entry is too long")
        try:
            entry = Checkpoint.Value.FromString(self._take(length))
            tag, tensor = str(entry.tag), entry.tensor
            if not tag or not entry.HasField("tensor"):
                raise DamagedError("an entry is no tensor")
            return tag, (tuple(tensor.dims), str(tensor.tensor_type)), tensor.tensor_content
        except (DecodeError, UnicodeDecodeError):
            raise DamagedError("an entry cannot be read") from None


def _value(name: str, dims: tuple[int, ...], kind: str, raw: bytes) -> Any:
    """Turn one entry into a text or a Tensor."""
    if kind == _TEXT:
        try:
            return raw.decode("utf-32-le").rstrip("\0")
        except UnicodeDecodeError:
            raise DamagedError(f"{name} is no text") from None
    dtype = _TYPES.get(kind)
    if dtype is None:
        raise DamagedError(f"{name} has the unknown type {kind}")
    # MindSpore itself spells a scalar [] or [0].
    shape = () if dims == (0,) else dims
    if len(shape) > _MAX_RANK or any(length < 1 for length in shape):
        raise DamagedError(f"{name} has impossible dimensions")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise DamagedError(f"{name} has more or less data than its dimensions and type need")
    flat = np.frombuffer(raw, dtype)
    if kind == _BFLOAT16:
        wide = (flat.astype(np.uint32) << 16).view(np.float32)
        return Tensor(wide.reshape(shape), mstype.bfloat16)
    if kind == "Bool" and flat.view(np.uint8).max() > 1:
        raise DamagedError(f"{name} holds bytes that are neither true nor false")
    return Tensor(flat.reshape(shape))
