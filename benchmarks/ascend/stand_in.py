"""Stand-ins for CANN's libraries, with which MindSpore's Ascend back end loads without a device.

    python -m benchmarks.ascend.stand_in [FOLDER]     builds them and prints the environment

MindSpore's Linux wheels hold the whole Ascend back end and lack only CANN: every symbol that its
libraries import (``nm``) or look up by name (``strings``) is defined here. Some are small working
implementations (``graph_values.cc``, ``pretend_device.cc``), all others return 0. In dry-run mode
(``MS_SIMULATION_LEVEL=1``) a graph then passes MindSpore's Ascend passes, its kernel selection,
the insertion of collectives and the creation of its kernels.

What that shows is that MindSpore's Ascend back end takes the graph, and by which kernels. CANN
checks nothing and nothing is computed: an operator, type or shape that CANN lacks passes as well.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program

HERE = Path(__file__).resolve().parent
SOURCES = ("graph_values.cc", "pretend_device.cc")
WAITING = "callback_wait.cc"
"""Takes the place of a function of MindSpore's own."""
TOOLS = ("g++", "nm", "strings")
COMPILER = (
    "g++",
    "-O1",
    "-w",
    "-D_GLIBCXX_USE_CXX11_ABI=0",
    "-fPIC",
    "-fvisibility-inlines-hidden",
)

_ASCEND = ("plugin/libmindspore_ascend.so.2", "plugin/libmindspore_ops_ascend.so")
_OTHERS = ("libmindspore_ge_backend.so", "plugin/ascend/**/*.so")
_SYSTEM = [
    "libc.so.6",
    "libm.so.6",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "libgomp.so.1",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
]
_SYSTEM_FOLDERS = ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib/x86_64-linux-gnu")
_NOT_CANN = re.compile(r"^(_ITM|__gmon|__tls|__gcov|_ZTH|_Jv_|__stack|_?Py|_ZN3atb)")
_BY_NAME = re.compile(
    r"^(aclrt|aclop|acltdt|aclprof|aclmdl|acl[A-Z]|Hccl|Hcom|rt[A-Z]|Msprof|MsProf|prof)\w+$"
)
_OPERATOR = re.compile(r"aclnn[A-Z][A-Za-z0-9]+")
_HCOM = (
    "HcomSetGradFusionByIndex",
    "HcomSetGradFusionBySize",
    "HcomGetWorldRankFromGroupRank",
    "HcomGetGroupRankFromWorldRank",
)
_OPAPI = [
    "aclnnInit",
    "aclnnFinalize",
    "InitHugeMemThreadLocal",
    "UnInitHugeMemThreadLocal",
    "ReleaseHugeMem",
    "aclSetAclOpExecutorRepeatable",
    "aclDestroyAclOpExecutor",
]
_LIBRARIES = [
    "ge_runner",
    "graph",
    "msprofiler",
    "hccl",
    "runtime",
    "platform",
    "c_sec",
    "nnopbase",
    "ascend_hal",
    "acl_op_compiler",
    "acl_tdt_channel",
    "profapi",
]
_PRELOADED = "libcallback_wait.so"
_MAKES_HANDLE = re.compile(r"acl(op|mdl)?Create|aclrtAllocatorCreateDesc")
_RESULT_SIZE = "GetWorkspaceSize"

CANN_NAME = "latest"
"""MindSpore looks for this name in the path from which CANN's libraries were loaded."""


class Unavailable(UserError):
    """The stand-ins cannot be built here; the message says why."""


def _library_folder() -> Path:
    found = importlib.util.find_spec("mindspore")
    if found is None or found.origin is None:
        raise Unavailable("the Ascend stand-ins need MindSpore: install mindspore")
    return Path(found.origin).parent / "lib"


def _ascend_libraries() -> list[Path]:
    folder = _library_folder()
    found = [path for name in (*_ASCEND, *_OTHERS) for path in sorted(folder.glob(name))]
    if not (folder / _ASCEND[0]).exists():
        raise Unavailable(
            f"no {_ASCEND[0]} in {folder}: the Ascend stand-ins need MindSpore's wheel for Linux, "
            "release 2.10"
        )
    return found


def check_available() -> None:
    """Look for all that building needs.

    Raises:
        Unavailable: naming what is missing.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise Unavailable("the Ascend stand-ins are made for Linux on x86_64: use such a machine")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise Unavailable(
            f"the Ascend stand-ins need {', '.join(missing)}: install g++ and binutils"
        )
    _ascend_libraries()


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode and command[0] == "g++":
        raise Unavailable(f"g++ could not build the Ascend stand-ins: {done.stderr.strip()[:400]}")
    return done.stdout


def _symbols(path: Path, which: str, dynamic: bool = True) -> set[str]:
    lines = _run("nm", *(["-D"] if dynamic else []), f"--{which}-only", path).splitlines()
    return {line.split()[-1].split("@")[0] for line in lines if line.strip()}


def _provided() -> set[str]:
    """What MindSpore's own libraries and the system's define."""
    root = _library_folder().parent
    paths = [path for path in root.rglob("*.so*") if "/gpu" not in str(path)]
    for name in _SYSTEM:
        folders = [Path(folder) for folder in _SYSTEM_FOLDERS]
        paths += [folder / name for folder in folders if (folder / name).exists()][:1]
    return set().union(*(_symbols(path, "defined") for path in paths))


def _wanted() -> tuple[set[str], set[str]]:
    """Symbols of CANN's runtime and of its operator library that MindSpore asks for."""
    libraries = _ascend_libraries()
    imported = set().union(*(_symbols(path, "undefined") for path in libraries))
    runtime = {name for name in imported - _provided() if not _NOT_CANN.match(name)}
    operators = set(_OPAPI)
    for path in libraries:
        for line in _run("strings", "-n", "4", path).splitlines():
            if _BY_NAME.match(line):
                runtime.add(line)
            for name in _OPERATOR.findall(line):
                base = name[: -len(_RESULT_SIZE)] if name.endswith(_RESULT_SIZE) else name
                operators |= {base, base + _RESULT_SIZE}
    return runtime | set(_HCOM), operators


def _assembly(names: Iterable[str]) -> str:
    """Functions that return 0, or a pointer where they create something."""
    lines = [".text"]
    for name in sorted(names):
        body = "xorl %eax,%eax\nxorl %edx,%edx"
        if _MAKES_HANDLE.match(name):
            body = "leaq handle(%rip),%rax"
        lines += [f".globl {name}", f".type {name},@function", f"{name}:", body, "ret"]
        lines.append(f".size {name},.-{name}")
    lines += [".bss", "handle: .zero 65536", '.section .note.GNU-stack,"",@progbits', ""]
    return "\n".join(lines)


def _build(folder: Path) -> None:
    libraries = folder / "lib64"
    for made in (libraries, folder / "opp", folder / "python" / "hccl"):
        made.mkdir(parents=True)
    objects = []
    for source in SOURCES:
        objects.append(folder / f"{source}.o")
        _run(*COMPILER, "-c", "-o", objects[-1], HERE / source)
    written = set().union(*(_symbols(path, "defined", dynamic=False) for path in objects))
    runtime, operators = _wanted()
    (folder / "runtime.s").write_text(_assembly(runtime - written))
    (folder / "opapi.s").write_text(_assembly(operators))
    first = libraries / "libascendcl.so"
    _run(*COMPILER, "-shared", "-o", first, folder / "runtime.s", *objects)
    _run(*COMPILER, "-shared", "-o", libraries / "libopapi.so", folder / "opapi.s")
    _run(*COMPILER, "-shared", "-o", folder / _PRELOADED, HERE / WAITING)
    for library in _LIBRARIES:
        os.link(first, libraries / f"lib{library}.so")
    # mindspore.communication.init() only imports the version.
    (folder / "python" / "hccl" / "__init__.py").write_text("")
    (folder / "python" / "hccl" / "sys_version.py").write_text('__sys_version__ = "0.0"\n')


def default_folder() -> Path:
    """Where the stand-ins of this MindSpore and of these sources are kept."""
    digest = hashlib.sha256(str(_ascend_libraries()[0].stat()).encode())
    for name in (*SOURCES, WAITING, Path(__file__).name):
        digest.update((HERE / name).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mindspore_thor" / f"ascend-{digest.hexdigest()[:16]}"


def build(folder: Path | None = None) -> Path:
    """Build the stand-ins, in some ten seconds, where they are not there yet.

    Args:
        folder: where to; by default a folder of the user's cache.

    Returns:
        The folder that stands for CANN's.

    Raises:
        Unavailable: where they cannot be built.
    """
    check_available()
    folder = (folder or default_folder()).absolute() / CANN_NAME
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as held:
        made = Path(held) / "made"
        _build(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # another process was faster
                raise
    return folder


def environment(folder: Path, ranks: int = 1, rank: int = 0) -> dict[str, str]:
    """The variables with which MindSpore loads the stand-ins and plays one of several ranks."""
    python = [str(folder / "python"), str(HERE.parents[1])]
    preloaded = [str(folder / _PRELOADED), *os.environ.get("LD_PRELOAD", "").split()]
    return {
        "LD_PRELOAD": os.pathsep.join(preloaded),
        "LD_LIBRARY_PATH": str(folder / "lib64"),
        "ASCEND_OPP_PATH": str(folder / "opp"),
        "ASCEND_HOME_PATH": str(folder),
        "PYTHONPATH": os.pathsep.join(python),
        "MS_SIMULATION_LEVEL": "1",
        "RANK_SIZE": str(ranks),
        "RANK_ID": str(rank),
    }


def main() -> int:
    """Build and print the environment; returns the exit code."""
    try:
        folder = build(Path(sys.argv[1]) if sys.argv[1:] else None)
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"export {name}={value}" for name, value in environment(folder).items()))
    return 0


if __name__ == "__main__":
    run_program(main)
