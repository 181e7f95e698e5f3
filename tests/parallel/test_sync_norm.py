"""BatchNorm over all ranks: what becomes of a net, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mindspore import nn

import train
from mindspore_thor import THOR
from mindspore_thor.parallel import sync_norm
from models import create_model


class Made:
    """In the place of ``nn.SyncBatchNorm``, which exists only among ranks on an Ascend."""

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        self.bn_train = ("synchronised", num_features, eps, momentum)


@pytest.fixture
def ascend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_norm, "world", lambda: (3, 8))
    monkeypatch.setattr(sync_norm, "ms", SimpleNamespace(get_context=lambda name: "Ascend"))
    fakes: dict[str, Any] = {"BatchNorm2d": nn.BatchNorm2d, "SyncBatchNorm": Made}
    monkeypatch.setattr(sync_norm, "nn", SimpleNamespace(**fakes))


def norms_of(net: nn.Cell) -> list[nn.BatchNorm2d]:
    return [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]


def test_every_norm_takes_the_operator_of_its_own_settings(ascend: None) -> None:
    net = nn.SequentialCell(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.7), nn.BatchNorm2d(4)
    )
    names = list(net.parameters_dict())
    kept = [norm.bn_infer for norm in norms_of(net)]
    assert sync_norm.synchronise_norms(net) == 2
    first, second = norms_of(net)
    assert first.bn_train == ("synchronised", 4, 1e-3, pytest.approx(0.7))
    assert second.bn_train == ("synchronised", 4, 1e-5, pytest.approx(0.9))
    # Evaluation, names and types are those of before.
    assert [norm.bn_infer for norm in norms_of(net)] == kept
    assert list(net.parameters_dict()) == names


def test_second_order_methods_see_what_they_saw(ascend: None) -> None:
    plain, other = (create_model("resnet20", width=0.25) for _ in range(2))
    assert sync_norm.synchronise_norms(other) == len(norms_of(plain)) == 21
    tables = [THOR(net, 0.1).layer_report().table() for net in (plain, other)]
    assert tables[0] == tables[1] and "normalisation: plain gradient" in tables[0]


def test_one_rank_has_nobody_to_ask() -> None:
    net = create_model("resnet20", width=0.25)
    before = [norm.bn_train for norm in norms_of(net)]
    assert sync_norm.synchronise_norms(net) == 0
    assert all(norm.bn_train is was for norm, was in zip(norms_of(net), before))


def test_a_device_without_it_refuses_in_one_line(
    tiny_recipe: Path,
    mnist_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sync_norm, "world", lambda: (0, 2))
    flags = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    flags += ["--output_dir", str(tmp_path / "run"), "--train.sync_batch_norm", "true"]
    assert train.main(flags) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: train.sync_batch_norm is true, but MindSpore's CPU back end")
    assert not (tmp_path / "run").exists()
