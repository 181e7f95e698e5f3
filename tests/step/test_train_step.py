"""The training step: every way to run it gives the same weights; bad batches leave no trace."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.train import Callback, CheckpointConfig, LossMonitor, Model, ModelCheckpoint
from oracle.bridge import oracle_net
from oracle.nets import token_net
from oracle.optimizers import Thor
from oracle.training import compare, cross_entropy
from steps import INTERVALS, STEPS, Outer, problem, same, thor, train, weights

from mindspore_thor import THOR, DynamicLossScale, TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.optim import create_optimizer


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """What STEPS steps of the Python-dispatched path in graph mode give, checked by the oracle.

    And the step itself, with its state at the start.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    net, data = problem()
    oracle = Thor(
        oracle_net(net),
        lr=lambda k: 0.1 * 0.9**k,
        weight_decay=0.01,
        momentum=0.9,
        split_dim=4,
        **INTERVALS,
    )
    for x, labels in data:
        oracle.step(x, labels)
    step = TrainStep(net, cross_entropy(), thor(net))
    start = {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}
    losses = train(step, data)
    same(weights(net), list(oracle.net.weights().values()), 1e-4)
    return {"weights": weights(net), "losses": losses, "step": step, "start": start}


def test_pynative_mode(reference) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net, data = problem()
    losses = train(TrainStep(net, cross_entropy(), thor(net)), data)
    same(weights(net), reference["weights"], 1e-6)
    assert losses == pytest.approx(reference["losses"], rel=1e-6)


def test_compiled_into_another_graph(reference) -> None:
    net, data = problem()
    scale = DynamicLossScale(initial=1024, window=3)  # which has to cancel
    step = TrainStep(net, cross_entropy(), thor(net), loss_scale=scale)
    losses = train(Outer(step), data)
    assert float(step.loss_scale.scale) == 1024 * 2 ** (len(data) // 3)
    same(weights(net), reference["weights"], 1e-5)
    assert losses == pytest.approx(reference["losses"], rel=1e-5)


def dataset(data) -> ds.Dataset:
    x = np.concatenate([a for a, _ in data])
    labels = np.concatenate([b for _, b in data])
    rows = ds.NumpySlicesDataset({"x": x, "label": labels}, shuffle=False)
    return rows.batch(len(data[0][1]), drop_remainder=True)


class Losses(Callback):
    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def step_end(self, run_context) -> None:
        self.values.append(float(np.mean(run_context.original_args().net_outputs.asnumpy())))


@pytest.mark.parametrize("sink", [False, True], ids=["fed", "sunk"])
def test_model_with_callbacks(reference, sink, tmp_path, capsys) -> None:
    _, data = problem()
    # The compiled step of the reference begins anew.
    step = reference["step"]
    for k, p in step.parameters_dict().items():
        ops.assign(p, Tensor(reference["start"][k]))  # set_data would detach it from the graphs
    net = step.net
    losses = Losses()
    saver = ModelCheckpoint("run", str(tmp_path), CheckpointConfig(save_checkpoint_steps=STEPS))
    Model(step).train(
        1,
        dataset(data),
        callbacks=[LossMonitor(1), saver, losses],
        dataset_sink_mode=sink,
        sink_size=-1,
    )
    same(weights(net), reference["weights"], 1e-5)
    assert losses.values[-1] == pytest.approx(reference["losses"][-1], rel=1e-4)
    if not sink:
        assert losses.values == pytest.approx(reference["losses"], rel=1e-5)
    assert "loss is" in capsys.readouterr().out
    (path,) = tmp_path.glob("run-*.ckpt")
    saved = ms.load_checkpoint(str(path))
    assert {p.name for p in net.get_parameters()} <= set(saved)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_as_the_optimizer_of_a_model(reference, mode) -> None:
    """Model(net, loss_fn, optimizer=THOR(...)): MindSpore's own training cell."""
    ms.set_context(mode=mode)
    net, data = problem()
    Model(net, cross_entropy(), optimizer=thor(net)).train(
        1, dataset(data), dataset_sink_mode=False
    )
    same(weights(net), reference["weights"], 1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: nn.Momentum(net.trainable_params(), 0.1, 0.9, weight_decay=0.01),
        lambda net: nn.Adam(net.trainable_params(), [0.1, 0.05, 0.02, 0.01], loss_scale=64.0),
        lambda net: create_optimizer("sgd", net, 0.1, weight_decay=0.01, loss_scale=8.0),
    ],
    ids=["momentum", "adam, list, loss scale", "registry"],
)
def test_any_other_optimizer_is_nn_train_one_step_cell(make) -> None:
    net, data = problem(4)
    optimizer = make(net)
    plain = nn.TrainOneStepCell(
        nn.WithLossCell(net, cross_entropy()), optimizer, sens=float(optimizer.loss_scale)
    )
    losses = train(plain.set_train(), data)
    net2, _ = problem(4)
    step = TrainStep(net2, cross_entropy(), make(net2))
    assert train(step, data) == pytest.approx(losses, rel=1e-6)
    same(weights(net2), weights(net), 1e-6)


class LossInside(nn.Cell):
    def __init__(self, net: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = cross_entropy()

    def construct(self, x, labels):
        return self.loss(self.net(x), labels)


def test_a_net_that_returns_its_loss(reference) -> None:
    net, data = problem()
    whole = LossInside(net)
    losses = train(TrainStep(whole, None, thor(whole)), data)
    same(weights(net), reference["weights"], 1e-5)
    assert losses == pytest.approx(reference["losses"], rel=1e-5)


def test_batches_of_different_size() -> None:
    """N is the batch's own: factors, LayerNorm's rule and embeddings follow a smaller batch."""
    net, ids, labels = token_net(batch=5)
    errors, _, _ = compare(
        net,
        [(ids, labels), (ids[:3], labels[:3])],
        lambda n: TrainStep(n, cross_entropy(), THOR(n, 0.1)),
        lambda o: Thor(o, lr=0.1, momentum=0.9),
    )
    assert max(errors.values()) < 2e-5, errors


@pytest.mark.parametrize("place", [0, 1, 2], ids=["net", "loss_fn", "optimizer"])
def test_other_arguments_are_refused_by_name(place, request) -> None:
    net, _ = problem(1)
    arguments = [net, cross_entropy(), thor(net)]
    arguments[place] = "mse"
    with pytest.raises(UserError, match=f"TrainStep: {request.node.callspec.id} is a str"):
        TrainStep(*arguments)
