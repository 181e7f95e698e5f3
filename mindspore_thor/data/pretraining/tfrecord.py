"""Any record of a TFRecord file, without TensorFlow.

A record is its length (8 bytes, little-endian), the length's masked CRC-32C (4 bytes), the bytes,
and their masked CRC-32C (4 bytes). MindSpore's own reader gives records one after the other only,
so that a resumed run would have to read all that came before; this one finds them once, and may
keep where they begin.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
from pathlib import Path

import numpy as np

from mindspore_thor.data.files import unreadable
from mindspore_thor.data.text.lines import TextFile
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file

_HEAD, _TAIL = 12, 4
_MASK_DELTA = 0xA282EAD8


def _crc_table() -> np.ndarray:
    """CRC-32C of every byte: polynomial 0x1EDC6F41, reflected."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_TABLE = _crc_table()


def masked_crc(rows: np.ndarray) -> np.ndarray:
    """Return TFRecord's checksum of each row of bytes.

    Args:
        rows: uint8 [n, length].

    Returns:
        uint32 [n]: the CRC-32C, rotated to the right by 15 bits, plus a constant.
    """
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in rows.T:
        crc = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    crc = ~crc
    rotated = (crc >> np.uint32(15)) | (crc << np.uint32(17))
    return rotated + np.uint32(_MASK_DELTA)


class RecordFile:
    """The records of one file by number.

    Args:
        path: The file.
        folder: Where it is kept where the records begin, or None. Found again as long as the file's
            size, time of change and ends are the same.

    Raises:
        UserError: The file cannot be read, is empty or is no TFRecord file. Checksums of the bytes
            themselves are not looked at, those of the lengths are.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path = path
        kept = None if folder is None else folder / f"{path.name}.{_digest(path)}.index.npy"
        self.places = _kept(kept)
        if self.places is None:
            self.places = _found(path)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                np.save(file, self.places)
                write_file(kept, [file.getvalue()], len(file.getvalue()))

    def __len__(self) -> int:
        """Return the number of records."""
        assert self.places is not None
        return len(self.places)

    def read(self, index: int) -> bytes:
        """Return the bytes of a record.

        Raises:
            UserError: The file cannot be read, or has become shorter.
        """
        assert self.places is not None
        start, size = self.places[index].tolist()
        try:
            with open(self.path, "rb") as file:
                content = os.pread(file.fileno(), size, start)
        except OSError as error:
            raise unreadable(self.path, error) from None
        if len(content) != size:
            raise UserError(
                f"'{shown(self.path, 140)}' ends within record {index}: it was changed during the "
                "training; fetch it again"
            )
        return content


def _digest(path: Path) -> str:
    key = json.dumps(TextFile(path).key(), sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _kept(path: Path | None) -> np.ndarray | None:
    """Return what a file says about where records begin, or None."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        if path is not None and path.is_file():
            places = np.load(path, allow_pickle=False)
            if places.dtype == np.int64 and places.ndim == 2 and places.shape[1] == 2:
                return places
    return None


def _found(path: Path) -> np.ndarray:
    """Return where the bytes of each record begin and how many they are, int64 [n, 2]."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"'{shown(path, 140)}' is empty: fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _walk(path, content, size)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise unreadable(path, error) from None


def _walk(path: Path, content: mmap.mmap, size: int) -> np.ndarray:
    places, heads = [], []
    at = 0
    while at < size:
        head = content[at : at + _HEAD]
        length = int.from_bytes(head[:8], "little")
        if at + _HEAD + length + _TAIL > size:
            break
        places.append((at + _HEAD, length))
        heads.append(head)
        at += _HEAD + length + _TAIL
    rows = np.frombuffer(b"".join(heads), np.uint8).reshape(-1, _HEAD)
    stored = np.ascontiguousarray(rows[:, 8:]).view("<u4").reshape(-1)
    wrong = np.flatnonzero(masked_crc(rows[:, :8]) != stored)
    if len(wrong) or at != size:
        number = int(wrong[0]) if len(wrong) else len(places)
        raise UserError(
            f"'{shown(path, 110)}' is no whole TFRecord file: record {number} is damaged or cut; "
            "fetch it again, and unpack it if it is packed"
        )
    return np.array(places, np.int64).reshape(-1, 2)
