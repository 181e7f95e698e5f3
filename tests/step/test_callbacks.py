"""A training by ``ms.Model`` ends where it has become pointless, and says why."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Model, Tensor, nn, ops
from mindspore.dataset import GeneratorDataset
from oracle.bridge import randomise
from oracle.training import cross_entropy
from steps import Batches, problem, same, thor, weights

from mindspore_thor import KFAC, THOR, StopOnFailure, TrainStep
from mindspore_thor.errors import TrainingError, UserError


def dataset(data: Batches) -> GeneratorDataset:
    return GeneratorDataset(data, ["x", "label"], shuffle=False)


@pytest.fixture(scope="module")
def compiled() -> tuple[TrainStep, dict[str, np.ndarray]]:
    """A step for both ways to feed it, which share its graphs, and its state at the start."""
    net, _ = problem(1)
    step = TrainStep(net, cross_entropy(), thor(net))
    return step, {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}


# MindSpore's CPU back end takes the flag and sinks nothing.
@pytest.mark.parametrize("sink", [False, True], ids=["stepwise", "flag to sink"])
def test_a_series_of_skipped_updates_ends_it(sink: bool, compiled, capsys) -> None:
    """Two bad batches behind a good one: two in a row, one below the limit of three."""
    _, data = problem(4)
    for k in (1, 2, 3):
        data[k][0][0, 0] = np.nan
    step, start = compiled
    for k, p in step.parameters_dict().items():
        ops.assign(p, Tensor(start[k]))  # set_data would detach it from the compiled graphs
    callback = StopOnFailure(step, max_skipped=3, every=1)
    Model(step).train(1, dataset(data[:3]), callbacks=callback, dataset_sink_mode=sink)
    assert int(step.skipped_in_a_row.asnumpy()) == 2
    assert "Dense" in capsys.readouterr().err
    with pytest.raises(TrainingError, match=r"3 updates in a row were skipped.*learning rate"):
        Model(step).train(1, dataset(data[3:]), callbacks=callback, dataset_sink_mode=sink)


def test_factors_that_cannot_be_inverted_end_it() -> None:
    """Also where the optimizer works in MindSpore's own training cell."""
    net, data = problem(4)
    optimizer = KFAC(net, 0.01, factor_interval=1000, max_failures=2, method="inverse")
    model = Model(net, cross_entropy(), optimizer=optimizer)
    callback = StopOnFailure(optimizer, every=1)
    model.train(1, dataset(data[:1]), callbacks=callback, dataset_sink_mode=False)
    broken = optimizer.curvatures[0].statistics.asnumpy().copy()
    broken[0] = np.nan
    optimizer.curvatures[0].statistics.set_data(Tensor(broken))
    with pytest.raises(TrainingError, match=r"layer 0: .* 2 times in a row.*damping"):
        model.train(1, dataset(data[1:]), callbacks=callback, dataset_sink_mode=False)
    assert int(optimizer.global_step.asnumpy()[0]) == 3, "the first failure is not the end"


def test_bad_limits() -> None:
    net, _ = problem(1)
    with pytest.raises(UserError, match="max_skipped"):
        StopOnFailure(TrainStep(net, cross_entropy(), thor(net)), max_skipped=0)
    with pytest.raises(UserError, match="not a SequentialCell: give one of them"):
        StopOnFailure(net)


def test_layer_norm_needs_the_batch_size() -> None:
    """d = D / (D * D / N + sqrt(lam)): MindSpore's own training cell does not tell N."""
    _, [(x, labels)] = problem(1)
    results = []
    for given in (False, True):
        net = randomise(nn.SequentialCell(nn.LayerNorm((5,)), nn.Dense(5, 5)), 2)
        optimizer = THOR(net, 0.1, batch_size=len(labels) if given else None)
        if given:
            model = Model(net, cross_entropy(), optimizer=optimizer)
        else:
            with pytest.raises(ValueError, match=r"LayerNorm.*batch_size"):
                Model(net, cross_entropy(), optimizer=optimizer).train(
                    1, dataset([(x, labels)]), dataset_sink_mode=False
                )
            model = Model(TrainStep(net, cross_entropy(), optimizer))
        model.train(1, dataset([(x, labels)]), dataset_sink_mode=False)
        results.append(weights(net))
    covered = {row.layer: row.covered for row in optimizer.layer_report()}
    assert covered == {"0": True, "1": True}
    assert ms.get_context("mode") == ms.GRAPH_MODE
    same(*results, 1e-5)
