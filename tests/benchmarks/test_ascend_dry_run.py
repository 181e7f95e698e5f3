"""Training graphs go through MindSpore's Ascend back end in dry-run, on stand-ins for CANN.

Nothing runs, and CANN checks nothing: a pass says that MindSpore 2.10's Ascend back end takes the
graph and by which kernels; see ``benchmarks/ascend/stand_in.py``.

| | what is compiled |
|---|---|
| every run (``COVERING``) | every method, both levels, both numbers of ranks, plain, factor and inverse steps, and ResNet-50's plain step, but not all combinations |
| ``pytest -m ascend_all tests/test_ascend_dry_run.py`` | plain, factor, update and inverse graphs of THOR, FNGD and LNGD on ResNet-20 and of THOR on ResNet-50, and SGD's step on both, each at O0 and O1 and on 1 and 8 ranks; the same list as ``python -m benchmarks.ascend.dry_run``, which prints the kernels |

One process per level and number of ranks compiles one graph after the other.
"""  # noqa: E501

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mindspore.nn import BatchNorm2d

from benchmarks.ascend import stand_in
from benchmarks.ascend.dry_run import Compiled, dry_run, ratio, read_log, report
from benchmarks.ascend.graphs import (
    CONTROL,
    LEVELS,
    RANKS,
    SYNC,
    Case,
    Graphs,
    Setting,
    parse_cases,
    required,
)
from benchmarks.traffic import traffic
from models import create_model

CONTROL_CASE = f"resnet20:fngd:{CONTROL}"

COVERING = {
    Setting("O0", 1): (
        *("resnet20:fngd:plain", CONTROL_CASE, "resnet20:lngd:inverse"),
        "bert_tiny:thor:plain",
    ),
    Setting("O0", 8): (f"resnet20{SYNC}:thor:factor",),
    Setting("O1", 1): ("resnet20:thor:plain", "resnet20:thor:update", "resnet20:thor:inverse"),
    Setting("O1", 8): ("resnet50:thor:plain",),
}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins, built once."""
    try:
        return stand_in.build(tmp_path_factory.mktemp("ascend"))
    except stand_in.Unavailable as reason:
        pytest.skip(str(reason))


def sent(case: Case) -> int:
    """How many AllReduces a graph has on several ranks: bytes over the largest message, rounded."""
    kind = "plain" if case.kind == "step" else case.kind  # a first-order method has one kind
    return len(traffic(Graphs.of(case.model, case.method).step)[kind])


def fused(graph: Compiled, operators: str) -> int:
    """How many fused kernels have these operators one after the other."""
    found = graph.kernels.items()
    return sum(n for (name, kind), n in found if kind == "akg" and operators in name)


def check(setting: Setting, graph: Compiled) -> None:
    """No error, all on the device, the expected messages, fused where the level fuses."""
    assert graph.error == "", f"{graph.case}, {setting}: {graph.error}"
    assert graph.kernels, "the log names no kernels"
    assert not graph.on_host(), f"{graph.case}, {setting}: {graph.on_host()}"
    expected = sent(graph.case) if setting.ranks > 1 else 0
    if graph.case.model.endswith(SYNC):
        # Two sums for the mean and the variance, and two for their gradients.
        norms = [c for _, c in create_model("resnet20").cells_and_names() if type(c) is BatchNorm2d]
        assert graph.operator("BNTrainingReduce") == len(norms) == 21
        expected += 4 * len(norms)
    assert graph.operator("AllReduce") == expected, graph.case
    assert (graph.of_type("akg") > 0) == (setting.level == "O1")
    if graph.case.kind == "update":
        # Momentum and update of every weight are one kernel; so is, at O1, its decay.
        optimizer = Graphs.of(graph.case.model, graph.case.method).optimizer
        assert graph.operator("ApplyMomentum") == len(optimizer.weights)
        if setting.level == "O1":
            assert fused(graph, "Mul_AddN") == sum(optimizer.decay_flags)
    if graph.case.kind == "inverse" and graph.case.method == "thor":
        # Products, and the device's own inverse behind the residual check.
        assert graph.operator("BatchMatMul") > graph.operator("MatrixInverseExt") > 0


def run(setting: Setting, cases: tuple[Case, ...], folder: Path) -> None:
    found = dry_run(setting, cases, folder)
    print(report(setting, found))
    for graph in found:
        if graph.case.kind == CONTROL:
            # What is said of the others means something only if a back-off is seen where one is.
            assert (graph.error, graph.on_host()) == ("", {"Cholesky": 1})
        else:
            check(setting, graph)


@pytest.mark.slow
@pytest.mark.parametrize("setting", COVERING, ids=str)
def test_the_graphs_compile_for_ascend(setting: Setting, libraries: Path) -> None:
    run(setting, parse_cases(COVERING[setting]), libraries)


@pytest.mark.slow
@pytest.mark.ascend_all
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("level", LEVELS)
def test_all_graphs_compile_for_ascend(level: str, ranks: int, libraries: Path) -> None:
    run(Setting(level, ranks), required(), libraries)


def test_the_runs_of_every_day_cover_what_they_should() -> None:
    cases = [(setting, case) for setting, names in COVERING.items() for case in parse_cases(names)]
    assert {setting for setting, _ in cases} == {Setting(a, b) for a in LEVELS for b in RANKS}
    assert {case.method for _, case in cases} == {"thor", "fngd", "lngd"}
    assert {case.kind for _, case in cases} >= {"plain", "factor", "inverse"}
    assert Case("resnet50", "thor", "plain") in [case for _, case in cases]


LOG = """
[INFO] DEVICE(1,python) GenerateKernelMod] kernel opname:Before, kernel type:acl_kernel
[graph] {"case": ["resnet20", "thor", "plain"], "at": "begin"}
[INFO] DEVICE(1,python) GenerateKernelMod] kernel opname:MatMul, kernel type:opapi_kernel
[INFO] DEVICE(1,python) GenerateKernelMod] kernel opname:MatMul, kernel type:opapi_kernel
[INFO] TryBackoffCpu] Try to use backoff CPU kernel, node:Default/Cholesky-op0
[graph] {"case": ["resnet20", "thor", "plain"], "at": "end", "seconds": 1.5, "error": ""}
[graph] {"case": ["resnet20", "thor", "factor"], "at": "begin"}
"""


def test_the_log_is_read() -> None:
    done, broken = read_log(LOG.splitlines())
    assert dict(done.kernels) == {("MatMul", "opapi"): 2, ("Cholesky", "cpu"): 1}
    assert (done.seconds, done.error, broken.error) == (1.5, "", None)
    assert done.on_host() == {"Cholesky": 1}
    with pytest.raises(AssertionError, match="Cholesky"):
        check(Setting("O0", 1), done)
    with pytest.raises(AssertionError):
        check(Setting("O0", 1), broken)
    assert "| resnet20:thor:plain | 0 | 2 | 0 | 0 | Cholesky x 1 |" in report(
        Setting("O0", 1), [done]
    )


def test_kernels_are_told_as_a_ratio_to_those_of_sgd() -> None:
    def compiled(case: str, error: str = "", **kernels: int) -> Compiled:
        counted = Counter({("Operator", kind): count for kind, count in kernels.items()})
        return Compiled(*parse_cases([case]), counted, error=error)

    thor = compiled("resnet20:thor:plain", acl=3, opapi=4, akg=2, cpu=5, rt=6)
    other = compiled("resnet50:thor:plain", acl=3)
    broken = compiled("resnet20:thor:inverse", "no kernel", acl=1)
    sgd = compiled("resnet20:sgd", acl=4, opapi=1, akg=1, cpu=7)
    found = [thor, other, broken, sgd]
    # (3 + 4 + 2) / (4 + 1 + 1); there is no SGD on ResNet-50; half a graph has no ratio.
    assert [ratio(graph, found) for graph in found] == ["1.50", "-", "-", "1.00"]
    rows = report(Setting("O1", 8), found).splitlines()
    head = [cell.strip() for cell in rows[2].split("|")]
    cells = [cell.strip() for cell in rows[4].split("|")]
    assert cells[head.index("kernels / SGD")] == "1.50"
    assert [ratio(graph, found[:3]) for graph in found[:3]] == ["-"] * 3


def test_what_cannot_be_built_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(stand_in.Unavailable, match=r"need g\+\+, nm, strings"):
        stand_in.build(tmp_path / "here")
    assert not (tmp_path / "here").exists()
