"""Compiled graphs that are kept between runs, each under a digest of all that is constant in it.

MindSpore has a cache of its own (``MS_COMPILER_CACHE_ENABLE``). It loads what it wrote bit for bit,
but it asks only whether the source files are the same, and tells the graphs of a process apart by
the order in which they are compiled: a run with another damping trains with the old one, and says
nothing. Its folder is read once in a process (MindSpore 2.10, by trying). So here it only writes
and reads files:

* A graph's key is SHA-256 over everything that the compiler takes for constant, see
  :mod:`mindspore_thor.cache.fingerprint`: which graph of the step it is, the attributes and the
  code of every cell in it, values of constant tensors, names, shapes and types of parameters, the
  inputs' shapes and types, MindSpore's context, its random seeds, versions, and the sources of this
  package. Values of parameters (weights, learning rate, all state) are no constants. Where the key
  cannot be known for certain (an object of an unknown kind, a function that imports), the graph is
  compiled as ever and not kept.
* MindSpore sees a private folder of this process, emptied before every graph; in it lies, if there
  is one, the kept graph with that key, under the number that comes next. A number that is guessed
  wrong finds nothing, and the graph is compiled.
* What MindSpore has written is kept only if all its parameters are the step's own (others would be
  loaded as copies) and it calls no Python.
* An entry is one file, written under another name and then renamed, with a digest of its content
  that is checked before MindSpore sees it: damaged, truncated or half of it, it is compiled anew.
  If the whole is larger than its limit, the entries that were not used for longest go first.

It works on a CPU and for one process of a job; elsewhere it is untried, and off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Union

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore._c_expression import ms_ctx_param

from mindspore_thor.cache.fingerprint import Fingerprint, Unknown
from mindspore_thor.cache.kept import KeptGraphs
from mindspore_thor.cache.sources import versions
from mindspore_thor.cache.stage import ENABLE, PATH, UNCHECKED, Stage, the_stage
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.files import shown
from mindspore_thor.parallel.communication import world

logger = logging.getLogger("mindspore_thor")

LIMIT = 2000
"""Megabytes that the kept graphs may take together."""

VARIABLE = "MINDSPORE_THOR_CACHE"
"""Names the folder that takes the place of the user's own one."""

_PYTHON = ("PyExecute", "PyInterpret", "PyFunc", "Custom", "HookBackward", "CellBackwardHook")
_PASSING_CONTEXT = frozenset(
    (
        *("enable_compile_cache", "compile_cache_path", "cur_step_num", "last_triggered_step"),
        *("need_ckpt", "save_checkpoint_steps", "save_graphs", "save_graphs_path"),
    )
)
_seeds: Any = sys.modules["mindspore.common.seed"]


def to_terminal(line: str) -> None:
    """Show somebody who waits in front of a terminal what is being done."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def user_folder() -> Path:
    """The folder for all runs of this user."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(base):
        raise UserError("there is no home folder: give a folder for compiled graphs, or false")
    return Path(base) / "mindspore_thor"


def _used_by_others() -> bool:
    return os.environ.get(ENABLE) == "1" or ms.get_context("enable_compile_cache") is not None


def surroundings() -> tuple[Any, ...]:
    """What a graph depends on besides its cell and its inputs: versions, context, seeds."""
    context = ms.context._context()
    settings = []
    for name, member in sorted(ms_ctx_param.__members__.items()):
        if name not in _PASSING_CONTEXT:
            with contextlib.suppress(Exception):  # some may not be read
                settings.append((name, repr(context.get_param(member))))
    variables = [
        (name, value)
        for name, value in sorted(os.environ.items())
        if name.startswith(("MS_", "GRAPH_OP_")) and name not in (ENABLE, PATH, UNCHECKED)
    ]
    return (versions(), world(), settings, repr(context.jit_config), variables, _seed_state())


def _seed_state() -> list[list[Any]]:
    # A count that stands at its own start is as good as one that is not there.
    held = {key: value for key, value in _seeds._KERNEL_SEED.items() if value != key[1]}
    kernels = [[*key, value] for key, value in sorted(held.items(), key=repr)]
    return [[ms.get_seed()], *kernels]


def _restore_seeds(state: list[list[Any]]) -> None:
    _seeds._KERNEL_SEED.clear()
    _seeds._KERNEL_SEED.update({(name, seed): value for name, seed, value in state[1:]})


def _sign(found: Fingerprint, value: Any) -> None:
    """Add an input: what varies by shape and type, all else by its value.

    Raises:
        Unknown: for what cannot be digested.
    """
    if isinstance(value, Parameter):
        raise Unknown("a parameter as an input")
    if isinstance(value, Tensor) and not getattr(value, "const_arg", False):
        found.add(("tensor", tuple(value.shape), str(value.dtype)))
    elif getattr(value, "__ms_mutable__", False):
        dynamic = bool(getattr(value, "__ms_dynamic_len__", False))
        keys = tuple(value) if isinstance(value, dict) else len(value)
        found.add(("mutable", isinstance(value, list), dynamic, keys))
        for inner in value.values() if isinstance(value, dict) else value:
            _sign(found, inner)
    else:
        found.add(value, "input")


def key_of(graph: nn.Cell, inputs: tuple[Any, ...]) -> str:
    """The key of a graph that is about to be compiled.

    Args:
        graph: its cell, in the state in which it is compiled.
        inputs: as it is called with.

    Returns:
        64 hexadecimal digits.

    Raises:
        Unknown: where something in it cannot be digested for certain.
    """
    found = Fingerprint()
    found.add(("graph of a step", 1, surroundings()))
    found.add(len(inputs))
    for value in inputs:
        _sign(found, value)
    found.add(graph, type(graph).__name__)
    return found.digest()


def announce(graph: nn.Cell, tell: Callable[[str], None]) -> None:
    """Say that a graph is going to be compiled, where it is not yet.

    Args:
        graph: its cell.
        tell: takes the line.
    """
    if not graph.compile_cache:
        tell(f"compiling {getattr(graph, 'title', StoredGraph.title)} ...")


class CompileCache:
    """Graphs in a folder of the user's.

    Args:
        folder: made where it is missing; nobody else may be able to write into it. None for the
            user's own one; what is wrong with that is a ``problem``, no error.
        limit: megabytes that all graphs may take together; those not used for longest go first.
        off: why nothing is to be kept; empty for a cache that keeps.

    Attributes:
        loaded: graphs that came from the folder.
        compiled: graphs that were compiled.
        seconds: how long both took.
        off: why this run keeps no graphs; empty where it does.
        problem: why the folder cannot be used; empty where it can.
        tell: called with a line before a graph is compiled, which may take minutes; by default it
            goes to the error stream if that is a terminal.

    Raises:
        UserError: for a given folder that others can write into, or that cannot be made.
    """

    digested_as_nothing = True

    def __init__(self, folder: Path | None, limit: float = LIMIT, off: str = "") -> None:
        self.tell: Callable[[str], None] = to_terminal
        self.loaded = self.compiled = 0
        self.seconds = 0.0
        self.off, self.problem = off, ""
        self._told = (0, 0, 0.0, "")
        if self.off:
            pass
        elif ms.get_context("device_target") != "CPU":
            self.off = "kept graphs were only tried on CPU"
        elif world()[1] > 1:
            self.off = "a job of several processes compiles its graphs anew"
        self.kept: KeptGraphs | None = None
        if self.off:
            return
        try:
            self.kept = KeptGraphs(user_folder() if folder is None else folder, int(limit * 1e6))
        except UserError as error:
            if folder is not None:
                raise
            self.problem = str(error)

    def compile(self, graph: nn.Cell, compile_it: Callable[[], None], inputs: Any) -> None:
        """Compile a graph, or load it if it was compiled before.

        Args:
            graph: its cell.
            compile_it: does the work.
            inputs: the graph's.
        """
        blocked = self.kept is None or self.problem or _used_by_others()
        stage = None if blocked else the_stage()
        if self.kept is None or stage is None or not stage.free():
            self._compile_untouched(graph, compile_it)
            return
        visit = _Visit(self, self.kept, graph, inputs, stage)
        try:
            with stage.open(visit.prepare):
                compile_it()
            visit.finish()
            return
        except Exception:
            if not visit.laid:
                raise
        finally:
            stage.release(visit.began > 0)
        self.kept.forget(visit.key)  # MindSpore does not take it
        compile_it()

    def _compile_untouched(self, graph: nn.Cell, compile_it: Callable[[], None]) -> None:
        began, known = time.monotonic(), len(graph.compile_cache)
        announce(graph, self.tell)
        compile_it()
        if len(graph.compile_cache) > known:
            self.compiled += 1
            self.seconds += time.monotonic() - began

    def news(self) -> str:
        """Return a line about what was compiled since the last call; empty for nothing."""
        loaded, compiled, seconds, problem = self._told
        self._told = (self.loaded, self.compiled, self.seconds, self.problem)
        loaded, compiled = self.loaded - loaded, self.compiled - compiled
        parts = [f"{compiled} compiled"] if compiled else []
        parts += [f"{loaded} from the compile cache"] if loaded else []
        text = f"graphs: {', '.join(parts)}, {self.seconds - seconds:.1f} s" if parts else ""
        if self.problem and not problem:
            text = "; ".join(filter(None, (text, f"graphs are not kept: {self.problem}")))
        return text


class _Visit:
    """One graph's way through the cache."""

    def __init__(
        self, cache: CompileCache, kept: KeptGraphs, graph: nn.Cell, inputs: Any, stage: Stage
    ) -> None:
        self._cache, self._kept, self._stage = cache, kept, stage
        self._graph, self._inputs = graph, inputs
        self.key = ""
        self.laid = False
        self._seeds: Any = None
        self.began = 0.0

    def prepare(self) -> bool:
        """Lay the kept graph down, if there is one; False where the graph has no key."""
        self.began = time.monotonic()
        try:
            key = key_of(self._graph, self._inputs)
            self._stage.clear()
            found = self._kept.read(key)
            if found is not None:
                graph, self._seeds = found
                self._stage.lay(graph)
                self.laid = True
        except Exception as reason:  # of the user's objects, or the system's
            logger.info("%s is not kept: %s", type(self._graph).__name__, shown(reason, 200))
            announce(self._graph, self._cache.tell)
            return False
        self.key = key
        if not self.laid:
            announce(self._graph, self._cache.tell)
        return True

    def finish(self) -> None:
        """Keep what was compiled."""
        if not self.began:
            return
        cache = self._cache
        cache.seconds += time.monotonic() - self.began
        try:
            written = None
            if self.key:
                written = self._stage.collect()
            else:
                self._stage.skip()
            if self.laid and written is None:
                _restore_seeds(self._seeds)
                cache.loaded += 1
                return
            cache.compiled += 1
            if written is not None and _loads_alike(written, self._graph):
                self._kept.keep(self.key, written, _seed_state())
        except UserError as error:
            cache.problem = str(error)
        except Exception as reason:  # the graph itself is compiled
            logger.info("%s is not kept: %s", type(self._graph).__name__, shown(reason, 200))


def _loads_alike(written: bytes, graph: nn.Cell) -> bool:
    """Whether a graph in MindSpore's file format has all that it needs: parameters, no Python."""
    from mindspore.train.mind_ir_pb2 import ModelProto

    model = ModelProto()
    model.ParseFromString(written)
    own = set(graph.parameters_dict())
    parts = [model.graph, *model.functions]
    names = [value.name.rsplit(":", 1)[-1] for part in parts for value in part.parameter]
    kinds = {node.op_type.split("::")[-1].split(":")[0] for part in parts for node in part.node}
    return own.issuperset(names) and kinds.isdisjoint(_PYTHON)


Choice = Union[None, bool, str, "os.PathLike[str]", CompileCache]
"""Where graphs are kept: nowhere, in the user's own folder (True), or in the one given."""


def open_cache(choice: Choice, limit: float = LIMIT) -> CompileCache | None:
    """Return the cache that was chosen.

    Args:
        choice: see :data:`Choice`.
        limit: megabytes.

    Raises:
        UserError: for something else, or a folder that cannot be used.
    """
    if choice is None or choice is False:
        return None
    if isinstance(choice, CompileCache):
        return choice
    if choice is True:
        return CompileCache(None, limit)
    if isinstance(choice, (str, os.PathLike)) and str(choice).strip():
        return CompileCache(Path(choice), limit)
    raise UserError(
        f"compile_cache is {quoted(choice)}; give True for the user's own folder, a path, or None"
    )


class StoredGraph(nn.Cell):
    """A cell that is compiled by itself, and may be kept.

    Attributes:
        store: where; None for nowhere.
        title: what it computes, for the line that says it is compiled.
        reached: parameters by name that its cells use, but do not hold: those of hooks, say.
    """

    title = "a graph"
    store: CompileCache | None = None
    reached: Mapping[str, Parameter] = MappingProxyType({})

    def parameters_dict(self, recurse: bool = True) -> dict[str, Parameter]:
        """All parameters of its graph; MindSpore gives these to a graph that it loads."""
        return {**self.reached, **super().parameters_dict(recurse)}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile, or load what was compiled before."""
        if self.store is None or kwargs:
            announce(self, to_terminal)
            super().compile(*args, **kwargs)
            return
        self.store.compile(self, lambda: super(StoredGraph, self).compile(*args), args)
