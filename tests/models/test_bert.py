"""BERT: forward pass against float64 NumPy, sizes, padding, and who trains it."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters
from oracle.bert import BertOracle
from oracle.bridge import randomise
from oracle.transformer import weights_of

from mindspore_thor import THOR, TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.run.pretraining import PretrainingLoss, PretrainingSums
from models import create_model
from models.bert.sizes import parameter_count

TINY = {
    "vocab_size": 13,
    "width": 8,
    "hidden": 12,
    "heads": 2,
    "layers": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "max_length": 10,
}
LENGTHS = (9, 5, 7)
ASKED = ((2, 4, 7), (1,), (3, 5))


def tiny(seed: int = 1, **options: Any) -> nn.Cell:
    return randomise(create_model("bert", **{**TINY, **options}), seed).set_train(False)


def batch(length: int, predictions: int = 3) -> tuple[np.ndarray, ...]:
    """Ids, segments, mask, positions and labels of three pairs, padded to a length.

    A word may have the id of the padding, as MLPerf's random words do.
    """
    generator = np.random.default_rng(4)
    ids, segments, mask = (np.zeros((3, length), np.int32) for _ in range(3))
    positions = np.zeros((3, predictions), np.int32)
    labels = np.full((3, predictions + 1), -1, np.int32)
    for n, (size, asked) in enumerate(zip(LENGTHS, ASKED)):
        ids[n, :size] = generator.integers(1, 13, size)
        segments[n, size // 2 : size] = 1
        mask[n, :size] = 1
        positions[n, : len(asked)] = asked
        labels[n, : len(asked)] = generator.integers(0, 13, len(asked))
        labels[n, -1] = n % 2
    ids[0, 3] = 0
    return ids, segments, mask, positions, labels


def test_logits_are_the_oracles_without_padding() -> None:
    net = tiny()
    oracle = BertOracle(weights_of(net), TINY["heads"])
    ids, segments, mask, positions, _ = batch(10, 4)
    words, pairs = net(*map(Tensor, (ids, segments, mask, positions)))
    assert words.shape == (3, 4, 13) and pairs.shape == (3, 2)
    assert words.dtype == pairs.dtype == ms.float32
    for n, (size, asked) in enumerate(zip(LENGTHS, ASKED)):
        expected = oracle.logits(ids[n, :size], segments[n, :size], np.array(asked))
        found = words.asnumpy()[n, : len(asked)], pairs.asnumpy()[n]
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


class Fixed(nn.Cell):
    """The same logits for every batch."""

    def __init__(self, words: Tensor, pairs: Tensor) -> None:
        super().__init__()
        self.words, self.pairs = words, pairs

    def construct(self, ids, segments, mask, positions):
        return self.words, self.pairs


def test_the_loss_is_the_mean_over_masked_words_plus_the_mean_over_pairs() -> None:
    generator = np.random.default_rng(2)
    words, pairs = generator.normal(0, 2, (3, 3, 13)), generator.normal(0, 2, (3, 2))
    labels = batch(9)[-1]

    def log_p(logits: np.ndarray) -> np.ndarray:
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    asked = [(n, p) for n in range(3) for p in range(3) if labels[n, p] >= 0]
    assert len(asked) == sum(map(len, ASKED))
    lost = -np.array([log_p(words)[n, p, labels[n, p]] for n, p in asked])
    lost_pairs = -np.array([log_p(pairs)[n, labels[n, -1]] for n in range(3)])
    outputs = tuple(Tensor(x.astype(np.float32)) for x in (words, pairs))
    loss = PretrainingLoss()(outputs, Tensor(labels))
    assert float(loss.asnumpy()) == pytest.approx(lost.mean() + lost_pairs.mean(), rel=1e-5)

    # The last row is not used.
    used = np.array([1.0, 1.0, 0.0], np.float32)
    kept = [i for i, (n, _) in enumerate(asked) if n < 2]
    hits = [words[n, p].argmax() == labels[n, p] for n, p in asked if n < 2]
    pair_hits = [pairs[n].argmax() == labels[n, -1] for n in (0, 1)]
    expected = [sum(hits), lost[kept].sum(), len(kept), sum(pair_hits), lost_pairs[:2].sum(), 2]
    ignored = [Tensor(np.zeros((3, 1), np.int32))] * 4
    found = PretrainingSums(Fixed(*outputs))(*ignored, Tensor(labels), Tensor(used)).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def count(net: nn.Cell) -> int:
    return sum(int(np.prod(p.shape)) for p in net.trainable_params())


@pytest.mark.parametrize(
    ("name", "d", "f", "layers", "expected"),
    [
        # Of transformers' BertForPreTraining, bert-base-uncased and bert-large-uncased.
        ("bert_base", 768, 3072, 12, 110_106_428),
        ("bert_large", 1024, 4096, 24, 336_226_108),
        ("bert_tiny", 128, 512, 2, None),
    ],
)
def test_parameter_counts(name: str, d: int, f: int, layers: int, expected: int | None) -> None:
    v, most = 30522, 512
    norm, square = 2 * d, d * d + d
    embeddings = (v + most + 2) * d + norm
    layer = 4 * square + (d * f + f) + (f * d + d) + 2 * norm
    heads = square + norm + v + square + 2 * d + 2  # transform, norm, bias, pooler, two classes
    formula = embeddings + layers * layer + heads
    with no_init_parameters():
        net = create_model(name)
    assert count(net) == formula == parameter_count(v, d, f, layers)
    assert expected in (None, formula)


def test_initial_values() -> None:
    """Normal with deviation 0.02, cut at two deviations: the rest has 0.8796 of the deviation."""
    ms.set_seed(3)
    net = create_model("bert", vocab_size=400)
    weights = [c.weight for _, c in net.cells_and_names() if isinstance(c, nn.Dense)]
    tables = [c.embedding_table for _, c in net.cells_and_names() if isinstance(c, nn.Embedding)]
    assert len(weights) == 2 * 6 + 3 and len(tables) == 3
    for parameter in weights + tables:
        values = parameter.asnumpy()
        assert np.abs(values).max() <= 0.04 * (1 + 1e-6)
        # Five standard errors of a deviation.
        assert abs(values.std() / (0.8796 * 0.02) - 1) < 5 / np.sqrt(2 * values.size) + 1e-3
    first, second = (layer.attention.query.weight.asnumpy() for layer in net.layers)
    assert (first != second).any()


def test_dropout_acts_in_training_alone_and_wants_noise() -> None:
    net, plain = tiny(dropout=0.5, attention_dropout=0.5), tiny()
    inputs = [Tensor(x) for x in batch(9)[:4]]
    noise = Tensor(np.arange(3, dtype=np.int32))
    kept = [net(*inputs, noise)[0].asnumpy(), plain(*inputs)[0].asnumpy()]
    np.testing.assert_array_equal(*kept)
    net.set_train(True)
    assert np.abs(net(*inputs, noise)[0].asnumpy() - kept[0]).max() > 1e-3
    with pytest.raises((UserError, RuntimeError), match="drops nothing without noise"):
        net(*inputs)


RATE = 0.25


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Cell, TrainStep]:
    """A net and its step, whose graphs the tests share: each of them begins with the same state."""
    net = tiny(layers=1, hidden=8).set_train(True)
    return net, TrainStep(net, PretrainingLoss(), THOR(net, RATE, damping=0.1, momentum=0.0))


@pytest.fixture(scope="module")
def start(trained: tuple[nn.Cell, TrainStep]) -> dict[str, np.ndarray]:
    return {name: p.asnumpy().copy() for name, p in trained[1].parameters_dict().items()}


def update_of(step: TrainStep, start: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """What one step from the start changes, pairs padded to a length."""
    for name, p in step.parameters_dict().items():
        ops.assign(p, Tensor(start[name]))  # set_data would detach it from the compiled graphs
    *inputs, labels = batch(length)
    step(*map(Tensor, (*inputs, np.zeros(3, np.int32), labels)))
    return {p.name: p.asnumpy() - start[p.name] for p in step.net.trainable_params()}


@pytest.mark.slow
def test_thor_covers_all_but_the_tied_table_and_sees_no_padding(trained, start) -> None:
    """An update from pairs padded to 9 is that from pairs padded to 10, to the last bits."""
    step = trained[1]
    found = []
    for length in (9, 10):
        found.append(update_of(step, start, length))
        rows = {row.layer: row for row in step.optimizer.layer_report()}
        dense = {name: row for name, row in rows.items() if row.type == "Dense"}
        assert len(dense) == 6 + 3
        assert all(row.covered and row.accepted for row in dense.values())
        tables = {name: row.covered for name, row in rows.items() if row.type == "Embedding"}
        assert tables == {
            "embedding": False,
            "position_embedding": True,
            "segment_embedding": True,
        }
        assert "used outside" in rows["embedding"].reason
    for name, update in found[0].items():
        if name.endswith("key.bias"):
            continue  # softmax does not see it: its gradient is rounding
        assert np.abs(update).max() > 0, name
        scale = np.abs(update).max()
        np.testing.assert_allclose(found[1][name], update, rtol=1e-3, atol=1e-3 * scale)


def test_the_tied_table_moves_by_its_plain_gradient(trained, start) -> None:
    """By lr times the gradient of both of its uses, computed without any optimizer."""
    net = tiny(layers=1, hidden=8).set_train(True)
    *inputs, labels = map(Tensor, batch(9))
    loss = PretrainingLoss()
    table = net.embedding.embedding_table

    def forward(*inputs):
        return loss(net(*inputs[:-1]), inputs[-1])

    gradient = ms.value_and_grad(forward, None, table)(*inputs, labels)[1].asnumpy()
    change = update_of(trained[1], start, 9)[table.name]
    np.testing.assert_allclose(-change, RATE * gradient, rtol=1e-4, atol=1e-6)


def test_a_sequence_beyond_max_length_is_one_line() -> None:
    with pytest.raises(UserError, match="11 tokens, the model's max_length is 10") as caught:
        tiny()(*map(Tensor, batch(11)[:4]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "3 heads of bert do not divide its width 8"),
        ({"layers": 0}, "layers of bert is 0: give at least 1"),
        ({"dropout": 1.0}, "dropout of bert is 1.0: give a share"),
        ({"width": 2**17}, "more than .* weights"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        create_model("bert", **{**TINY, **options})
    assert "\n" not in str(caught.value)
