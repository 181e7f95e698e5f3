"""What a launcher must know of this machine: its addresses, a free port, its visible devices."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Mapping

from mindspore_thor.errors import UserError


def host_addresses() -> set[str]:
    """Return this host's names and its addresses, the loopback's excluded."""
    names = {socket.gethostname(), socket.getfqdn()}
    found = set(names)
    for name in names:
        try:
            found |= {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
        except OSError:
            continue
    found |= _interface_addresses()
    return {name for name in found if name and not _is_loopback(name)}


def _is_loopback(name: str) -> bool:
    return name.startswith(("127.", "localhost")) or name == "::1"


def _interface_addresses() -> set[str]:
    """Ask ``ip``, as msrun itself does; a name server often knows only one of the addresses."""
    tool = shutil.which("ip")
    if tool is None:
        return set()
    done = subprocess.run([tool, "-j", "addr"], capture_output=True, text=True, check=False)
    try:
        interfaces = json.loads(done.stdout)
        return {str(a["local"]) for i in interfaces for a in i.get("addr_info", []) if "local" in a}
    except (ValueError, TypeError, AttributeError):
        return set()


def free_port() -> int:
    """Return a TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def visible_devices(environment: Mapping[str, str], name: str) -> list[str] | None:
    """Return the devices that the user lets a job see.

    Args:
        environment: The environment variables.
        name: The one that counts: ``ASCEND_RT_VISIBLE_DEVICES`` or ``CUDA_VISIBLE_DEVICES``.

    Returns:
        The entries in their order, or None where the variable is not set.

    Raises:
        UserError: If an entry is empty or appears twice.
    """
    text = environment.get(name)
    if text is None or not text.strip():
        return None
    entries = [entry.strip() for entry in text.split(",")]
    if "" in entries or len(set(entries)) < len(entries):
        raise UserError(f"{name} is {text!r}; give each device once, separated by commas")
    return entries
