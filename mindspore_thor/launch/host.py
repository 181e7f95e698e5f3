"""What a launcher must know of this machine: its addresses, a free port, its visible devices."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping

from mindspore_thor.errors import UserError, quoted

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)


def is_address(text: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address."""
    address, has_scope, scope = text.partition("%")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    # Python takes any text as the interface of a link-local address, line breaks included.
    return not has_scope or (version == 6 and _INTERFACE.fullmatch(scope) is not None)


def is_host(text: str) -> bool:
    """Return whether a text is an address, or can be a host's name; nobody is asked."""
    if is_address(text):
        return True
    labels = text.split(".")
    named = len(text) < 254 and all(_LABEL.fullmatch(label) for label in labels)
    return named and not labels[-1].isdigit()  # 10.0.0.300 is neither


def port_number(text: str) -> int | None:
    """Read a port that programs without privileges may use; None where it is something else."""
    good = text.isascii() and text.isdigit() and len(text) <= 5 and 1024 <= int(text) <= 65535
    return int(text) if good else None


def most_processes() -> int:
    """Return how many processes of a job this machine is trusted with: several per processor."""
    return max(16, 8 * (os.cpu_count() or 1))


def check_port(port: int) -> None:
    """Refuse a port that another program listens on.

    Args:
        port: The port of a job's scheduler on this machine.

    Raises:
        UserError: If it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError as error:
            raise UserError(
                f"port {port} for the scheduler: {error.strerror}; set MASTER_PORT to a free one"
            ) from None


def check_reachable(name: str) -> None:
    """Refuse a host whose name has no address.

    Args:
        name: The name or the address of the server with the scheduler.

    Raises:
        UserError: If it has none.
    """
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise UserError(
            f"{quoted(name)}, the server with rank 0, has no address here ({reason}); set "
            "MASTER_ADDR to one"
        ) from None


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
        raise UserError(f"{name} is {quoted(text)}; give each device once, separated by commas")
    return entries
