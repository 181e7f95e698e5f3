"""SOAP against the float64 oracle, and what follows from its formula."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import oracle_net
from oracle.layers import Conv, Dense
from oracle.nets import batches, conv_net, mlp, token_net
from oracle.rivals import Soap as Oracle
from oracle.training import compare, cross_entropy
from steps import Outer, assert_close, data_for

from mindspore_thor import TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.linalg.inverse import basis_each
from mindspore_thor.methods.soap import SOAP

REST = {"rest_learning_rate": 0.01, "rest_epsilon": 1e-3}


def run(problem, data=None, *, loss_scale=1.0, lr=0.05, **options):
    """Both sides of a comparison; the oracle borrows the float32 bases and checks them."""
    made = {}

    def make_step(n: nn.Cell) -> nn.Cell:
        made["step"] = TrainStep(n, cross_entropy(), SOAP(n, lr, loss_scale=loss_scale, **options))
        return made["step"]

    def make_oracle(o):
        layers = [layer for layer in o.layers if isinstance(layer, (Dense, Conv))]

        def basis(layer):
            found = made["step"].optimizer.curvatures[layers.index(layer)]
            sides = (getattr(found, name, None) for name in ("basis_left", "basis_right"))
            return [None if q is None else q.asnumpy().astype(np.float64) for q in sides]

        return Oracle(o, lr=lr, basis=basis, **options)

    return compare(problem[0], data_for(problem, data), make_step, make_oracle)


def test_several_steps_on_convolutions() -> None:
    """Wide, tall, grouped and depthwise kernels; turned after steps 2 and 4; decay, a schedule."""
    errors, _, step = run(
        conv_net(),
        6,
        lr=[0.03, 0.05, 0.04, 0.02, 0.03, 0.01],
        inverse_interval=2,
        weight_decay=0.3,
        loss_scale=64.0,
        epsilon=1e-3,
        **REST,
    )
    assert_close(errors, 1e-3)
    rows = {row.layer: row for row in step.optimizer.layer_report()}
    assert [name for name, row in rows.items() if row.covered] == ["0", "2", "4", "6", "7", "9"]
    assert rows["9"].accepted == 3 and rows["0"].rule == "weight SOAP, bias AdamW"


def test_several_steps_on_tokens() -> None:
    """Long sides have no basis; L and R have a beta of their own; the rest has the gradient."""
    options = {"max_preconditioner_dim": 5, "shampoo_beta": 0.6, "betas": (0.8, 0.9)}
    errors, _, step = run(
        token_net(), 6, inverse_interval=3, weight_decay=0.1, rest=None, epsilon=1e-4, **options
    )
    assert_close(errors, 1e-3)
    sides = [
        [hasattr(group, name) for name in ("basis_left", "basis_right")]
        for group in step.optimizer.groups
    ]
    # d_out x d_in: 9 x 6, 5 x 9, 4 x 5.
    assert sides == [[False, False], [True, False], [True, True]]


class Turned(nn.Cell):
    def construct(self, pairs, known):
        return basis_each(pairs, known)


def turned(moments: np.ndarray, basis: np.ndarray, known: list[int]) -> list[np.ndarray]:
    pairs = Tensor(np.concatenate([moments, basis], 2).astype(np.float32))
    return [item.asnumpy() for item in Turned()(pairs, Tensor(np.array(known, np.float32)))]


def test_a_basis_turns_by_a_power_step_and_qr() -> None:
    """Full rank: the decomposition is unique up to signs. Without a basis: eigenvectors."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 5, 9))
    moments = root @ root.transpose(0, 2, 1)
    moments[1] *= 1e-20
    basis = np.linalg.qr(rng.standard_normal((3, 5, 5)))[0]
    order, found, ok = turned(moments, basis, [1, 1, 0])
    assert ok.all()
    for m, q, places, new in zip(moments[:2], basis, order, found):
        np.testing.assert_array_equal(places, np.argsort(-np.diag(q.T @ m @ q)))
        expected = np.linalg.qr(m @ q[:, places])[0]
        np.testing.assert_allclose(np.abs(expected.T @ new), np.eye(5), atol=1e-4)
    inner = found[2].T @ moments[2] @ found[2]
    np.testing.assert_allclose(inner, np.diag(np.linalg.eigvalsh(moments[2])[::-1]), atol=1e-4)


def test_what_has_no_image_keeps_its_basis() -> None:
    """Null spaces, a matrix of zeros, a single number; what is not finite is not sound."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((3, 4, 4)))[0]
    moments = np.zeros((3, 4, 4))
    q = basis[0]
    moments[0] = q @ np.diag([1.0, 0.0, 3.0, 0.0]) @ q.T
    moments[2, 1, 1] = np.nan
    order, found, ok = turned(moments, basis, [1, 1, 1])
    assert ok.tolist() == [True, True, False]
    assert order[:2].tolist() == [[2, 0, 1, 3], [0, 1, 2, 3]]
    np.testing.assert_allclose(np.abs(q[:, order[0]].T @ found[0]), np.eye(4), atol=1e-5)
    np.testing.assert_allclose(np.abs(basis[1].T @ found[1]), np.eye(4), atol=1e-5)
    order, found, ok = turned(np.full((2, 1, 1), 0.3), np.ones((2, 1, 1)), [1, 0])
    assert ok.all() and (np.abs(found) == 1).all() and (order == 0).all()


def test_without_a_basis_it_is_adamw_from_the_second_step_on() -> None:
    """Q = I: m^ / (sqrt(v^) + eps) with a vanishing eps."""
    net, x, labels = mlp()
    options = {"betas": (0.8, 0.9), "epsilon": 1e-12, "max_preconditioner_dim": 1}
    step = TrainStep(net, cross_entropy(), SOAP(net, 0.02, **options, **REST))
    m = v = 0.0
    for t, (a, b) in enumerate(batches(x, labels, 4)):
        reference = oracle_net(net)
        reference.loss(a, b)
        d = reference.layers[0].d["weight"]
        before = net[0].weight.asnumpy().astype(np.float64)
        step(Tensor(a), Tensor(b))
        expected = before
        if t > 0:
            m, v = 0.8 * m + 0.2 * d, 0.9 * v + 0.1 * d * d
            expected = before - 0.02 * m / (1 - 0.8**t) / np.sqrt(v / (1 - 0.9**t))
        np.testing.assert_allclose(net[0].weight.asnumpy(), expected, atol=1e-5)


class Weighted(nn.Cell):
    def __init__(self, net: nn.Cell) -> None:
        super().__init__()
        self.net = net
        self.loss = cross_entropy()

    def construct(self, x, y, weight):
        return self.loss(self.net(x), y) * weight


def test_a_layer_waits_for_its_first_gradient_and_basis() -> None:
    """No gradient in step 0; it comes in step 1, behind the first turn; the next is before 3."""
    net, x, labels = mlp()
    step = TrainStep(Weighted(net), None, SOAP(net, 0.05, inverse_interval=2))
    moved, accepted = [], []
    for weight in (0.0, 1.0, 1.0, 1.0):
        before = net[0].weight.asnumpy().copy()
        step(Tensor(x), Tensor(labels), Tensor(weight))
        moved.append(bool((net[0].weight.asnumpy() != before).any()))
        accepted.append(step.optimizer.layer_report()[0].accepted)
    assert moved == [False, False, False, True]
    assert accepted == [0, 0, 0, 1]
    compiled = {type(g).__name__ for g in step._graphs if g.compile_cache}
    assert compiled == {"PlainStep", "RefreshStep", "ApplyStep"}


def test_all_phases_in_one_graph_do_the_same() -> None:
    x, labels = mlp()[1:]
    found = []
    for wrap in (lambda step: step, Outer):
        net = mlp()[0]
        step = TrainStep(net, cross_entropy(), SOAP(net, 0.05, inverse_interval=2, **REST))
        run_step = wrap(step)
        for a, b in batches(x, labels, 5):
            run_step(Tensor(a), Tensor(b))
        found.append({k: p.asnumpy() for k, p in step.parameters_dict().items()})
    for key, value in found[0].items():
        np.testing.assert_allclose(value, found[1][key], rtol=1e-3, atol=1e-4, err_msg=key)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("betas", (0.9, 1.0)),
        ("shampoo_beta", -0.1),
        ("epsilon", 0.0),
        ("max_preconditioner_dim", 0),
        ("inverse_interval", 0),
        ("factor_interval", 2),
        ("momentum", 0.9),
    ],
)
def test_values_out_of_range_are_named(option, value) -> None:
    with pytest.raises(UserError, match=option):
        SOAP(mlp()[0], 0.1, **{option: value})
