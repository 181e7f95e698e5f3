"""Passes that collect statistics on batches padded further than the step's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from oracle.natural import Lngd
from oracle.optimizers import Thor
from padded import AT_THE_ENDS, errors_of, oracle_of, padded, targets_of, token_net
from steps import assert_close

from mindspore_thor import TokenMeanLoss, TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.optim import create_optimizer
from mindspore_thor.run.tasks import TASKS
from mindspore_thor.run.translation import padding_to

INTERVALS = {"factor_interval": 2, "inverse_interval": 2}
OPTIONS: dict[str, Any] = {"damping": 0.3, "momentum": 0.0, **INTERVALS}
OF_LNGD: dict[str, Any] = {"momentum": 0.0, **INTERVALS}


def graphs_of(graph: Any) -> int:
    return len(graph.compile_cache)


@pytest.mark.parametrize(
    ("name", "oracle", "options"), [("thor", Thor, OPTIONS), ("lngd", Lngd, OF_LNGD)]
)
def test_one_graph_collects_for_all_lengths(name: str, oracle: Any, options: Any) -> None:
    """Steps of the lengths 6, 7, 8, 6: 0 and 2 collect, at 8; all equal those without padding."""
    net = token_net()
    sampled = {"sampling": "analytic"} if name == "lngd" else {}
    method = create_optimizer(name, net, 0.1, **options, **sampled)
    step = TrainStep(net, TokenMeanLoss(), method, capture_inputs=padding_to((8,)))
    reference = oracle(oracle_of(net), lr=0.1, **options)
    before = reference.net.weights()
    targets = targets_of(AT_THE_ENDS)
    for length in (6, 7, 8, 6):
        step(Tensor(padded(AT_THE_ENDS, length)), Tensor(padded(targets, length)))
        reference.step([np.array(s) for s in AT_THE_ENDS], [np.array(t) for t in targets])
    assert_close(errors_of(net, before, reference.net.weights()), 1e-4)
    assert graphs_of(step.measure if name == "lngd" else step.capture) == 1
    # LNGD's own pass comes after the measuring one, in every step.
    assert graphs_of(step.plain) == (3 if name == "lngd" else 2)


def test_micro_batches_are_padded_alike() -> None:
    """Two halves of each batch, of other lengths, are the whole one; only they that collect."""
    net, seen = token_net(), []

    def noted(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0].shape[1])
        return padding_to((8,))(inputs)

    method = create_optimizer("thor", net, 0.5, **OPTIONS)
    step = TrainStep(net, TokenMeanLoss(), method, accumulate=2, capture_inputs=noted)
    reference = Thor(oracle_of(net), lr=0.5, **OPTIONS)
    before = reference.net.weights()
    ids = [[1, 2, 4], [2, 5, 4]] * 2  # as many tokens in either half
    for length in (3, 4):
        for half in (ids[:2], ids[2:]):
            step(Tensor(padded(half, length)), Tensor(padded(targets_of(half), length)))
        reference.step([np.array(s) for s in ids], [np.array(t) for t in targets_of(ids)])
    assert seen == [3, 3]
    assert_close(errors_of(net, before, reference.net.weights()), 1e-4)


def test_lengths_go_to_the_next_that_is_given() -> None:
    """Ids alone get zeros behind; a number for each sentence, and what is longer, stays."""
    ids, noise = np.arange(1, 11, dtype=np.int32).reshape(2, 5), Tensor([7, 8], ms.int32)
    pad = padding_to((4, 7, 9))
    source, same, labels = pad((Tensor(ids), noise, Tensor(ids[:, :4])))
    np.testing.assert_array_equal(source.asnumpy(), np.pad(ids, ((0, 0), (0, 2))))
    assert source.dtype == ms.int32 and same is noise and labels.shape == (2, 4)
    assert pad((Tensor(np.ones((2, 10), np.int32)),))[0].shape == (2, 10)


@pytest.mark.parametrize(
    ("buckets", "lengths"),
    [((16, 24, 32, 48), (24, 24, 48, 48)), ((8, 16, 24), (8, 24, 24)), ((8, 16), (16, 16))],
)
def test_translation_collects_in_every_other_bucket(buckets: Any, lengths: Any) -> None:
    pad = TASKS["translate"].capture_inputs(SimpleNamespace(buckets=buckets))
    found = [pad((Tensor(np.ones((1, n), np.int32)),))[0].shape[1] for n in buckets]
    assert found == list(lengths)
    assert TASKS["translate"].capture_inputs(SimpleNamespace(buckets=buckets[:1])) is None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (lambda inputs: list(inputs), "capture_inputs gave a list: a tuple of all inputs"),
        (lambda inputs: inputs[:1], "the step was called with 1 inputs"),
        (lambda inputs: tuple(x[:2] for x in inputs), "capture_inputs made 2 samples of 4"),
        (8, "capture_inputs is 8; give a function"),
    ],
)
def test_what_is_no_such_function_is_told(given: Any, word: str) -> None:
    net = token_net()
    batch = Tensor(padded(AT_THE_ENDS, 6)), Tensor(padded(targets_of(AT_THE_ENDS), 6))
    with pytest.raises(UserError, match=word):
        method = create_optimizer("thor", net, 0.5)
        TrainStep(net, TokenMeanLoss(), method, capture_inputs=given)(*batch)
