"""Addresses of Ascend devices, as ``hccn_tool`` prints them and ``/etc/hccn.conf`` stores them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.launch.host import is_address
from mindspore_thor.launch.rank_table import MAX_DEVICE

CONFIGURATION = Path("/etc/hccn.conf")
_TOOLS = ("hccn_tool", "/usr/local/Ascend/driver/tools/hccn_tool")

Ask = Callable[[int], str]
"""Device number -> what the tool printed for it, "" where there is no tool."""


def parse_range(text: str) -> list[int]:
    """Read a range of device numbers.

    Args:
        text: ``[first,last)`` as in the model zoo, last excluded; numbers of any length.

    Returns:
        The numbers, at least one.

    Raises:
        UserError: If the text is no such range.
    """
    match = re.fullmatch(r"\s*\[\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\)\s*", text, re.ASCII)
    numbers = range(int(match[1]), int(match[2])) if match else range(0)
    if not numbers or numbers[-1] > MAX_DEVICE:
        raise UserError(
            f'--device_num is {quoted(text)}; give a range like "[0,8)", its end excluded, of '
            f"devices up to {MAX_DEVICE}"
        )
    return list(numbers)


def parse_devices(text: str) -> list[int]:
    """Read a list of physical device numbers.

    Args:
        text: Numbers separated by commas.

    Returns:
        The numbers, each one once.

    Raises:
        UserError: If the text is no such list.
    """
    words = [word.strip() for word in text.split(",")]
    good = all(word.isascii() and word.isdigit() and len(word) < 7 for word in words)
    numbers = [int(word) for word in words] if good else []
    if not numbers or len(set(numbers)) < len(numbers) or max(numbers) > MAX_DEVICE:
        raise UserError(
            f'--visible_devices is {quoted(text)}; give each device once, like "0,1,4", with '
            f"numbers up to {MAX_DEVICE}"
        )
    return numbers


def parse_tool_output(text: str) -> str | None:
    """Find the address in what ``hccn_tool -i N -ip -g`` printed.

    Args:
        text: The output: a line ``ipaddr:192.168.100.101`` among others.

    Returns:
        The address, or None where the device has none.
    """
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == "ipaddr" and is_address(value.strip()):
            return value.strip()
    return None


def parse_configuration(text: str) -> dict[int, str]:
    """Read ``/etc/hccn.conf``.

    Args:
        text: Lines ``address_0=192.168.100.101`` among others.

    Returns:
        Device number -> address.
    """
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*address_(\d+)\s*=\s*(\S+)\s*", line, re.ASCII)
        if match and is_address(match[2]):
            found[int(match[1])] = match[2]
    return found


def device_addresses(devices: Sequence[int], ask: Ask, configuration: Path) -> list[str]:
    """Return the address of each device, from the tool or else from the file.

    Args:
        devices: Physical device numbers.
        ask: Asks the tool; ``ask_tool`` outside of tests.
        configuration: The file; ``CONFIGURATION`` outside of tests.

    Raises:
        UserError: If the address of a device is unknown.
    """
    try:
        stored = parse_configuration(configuration.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        stored = {}
    addresses = []
    for device in devices:
        address = parse_tool_output(ask(device)) or stored.get(device)
        if address is None:
            raise UserError(
                f"device {device}: neither hccn_tool nor {configuration} knows its address; set it "
                f"with 'hccn_tool -i {device} -ip -s address A netmask M', or leave the device out"
            )
        addresses.append(address)
    return addresses


def ask_tool(device: int) -> str:
    """Return what ``hccn_tool`` prints for a device, or "" where there is no such tool.

    Args:
        device: Physical device number.
    """
    for tool in _TOOLS:
        try:
            done = subprocess.run(
                [tool, "-i", str(device), "-ip", "-g"],
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        return done.stdout
    return ""
