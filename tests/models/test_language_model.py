"""The language model: forward pass against float64 NumPy, what it may see, sizes, its layers."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import randomise
from oracle.transformer import TransformerOracle, Weights, weights_of

from mindspore_thor import THOR
from mindspore_thor.errors import UserError
from mindspore_thor.run.language import NextTokenLosses
from models import create_model
from models.language.sizes import parameter_count

TINY = {"vocab_size": 11, "width": 8, "hidden": 12, "heads": 2, "layers": 2, "context": 7}


def tiny(seed: int = 1, **options: Any) -> nn.Cell:
    net = create_model("language_model", **{**TINY, **options})
    return randomise(net, seed).set_train(False)


class Oracle(TransformerOracle):
    """A decoder without an encoder, in pre-norm, with the GELU of tanh."""

    def __init__(self, weights: Weights, heads: int) -> None:
        super().__init__(weights, heads, True, True)

    def feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        z = self.dense(f"{name}.feed_forward.dense1", x)
        hidden = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        return self.dense(f"{name}.feed_forward.dense2", hidden)

    def next_logits(self, ids: list[int]) -> np.ndarray:
        x = self.embed(self.target_table, ids)
        for name in self.layers("layers."):
            x = self.sublayer(
                f"{name}.norm1", x, lambda y, n=name: self.attention(f"{n}.attention", y, y, True)
            )
            x = self.sublayer(f"{name}.norm2", x, lambda y, n=name: self.feed_forward(n, y))
        return self.norm("norm", x) @ self.target_table.T


def test_logits_are_the_oracles_and_see_nothing_later() -> None:
    net = tiny()
    oracle = Oracle(weights_of(net), TINY["heads"])
    ids = np.random.default_rng(2).integers(1, 11, (3, 6)).astype(np.int32)
    logits = net(Tensor(ids))
    assert logits.shape == (3, 6, 11) and logits.dtype == ms.float32
    for row, found in zip(ids, logits.asnumpy()):
        np.testing.assert_allclose(found, oracle.next_logits(row.tolist()), rtol=1e-4, atol=1e-4)
    changed = ids.copy()
    changed[:, 4] = 1 + ids[:, 4] % 10
    other = net(Tensor(changed)).asnumpy()
    assert (other[:, :4] == logits.asnumpy()[:, :4]).all()
    assert np.abs(other[:, 4] - logits.asnumpy()[:, 4]).max() > 1e-3


class Fixed(nn.Cell):
    """The same logits for every block."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = Tensor(logits.astype(np.float32))

    def construct(self, ids: Tensor) -> Tensor:
        return self.logits


def test_losses_of_used_rows_and_real_tokens() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2, (3, 4, 5))
    labels = generator.integers(1, 5, (3, 4)).astype(np.int32)
    labels[0, 3] = 0  # padding
    logits[2] = np.nan  # a row that fills the batch
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(logs, labels[..., None], -1)[..., 0]
    expected = -(own[0, :3].sum() + own[1].sum()), 7
    used = Tensor(np.array([1, 1, 0], np.float32))
    found = NextTokenLosses(Fixed(logits))(Tensor(labels), Tensor(labels), used).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_parameters_are_counted() -> None:
    net = tiny()
    found = sum(int(np.prod(p.shape)) for p in net.get_parameters())
    assert found == parameter_count(11, 8, 12, 2)


def test_all_linear_layers_are_covered_and_the_table_is_left_to_the_rest() -> None:
    net = tiny()
    report = THOR(net, 0.1, rest="adamw", grafting="adamw").layer_report()
    dense = [name for name, cell in net.cells_and_names() if isinstance(cell, nn.Dense)]
    assert len(dense) == 2 * 6
    table = report.table()
    for name in dense:
        assert name in table
    (line,) = [line for line in table.splitlines() if "embedding" in line]
    assert "adamw" in line.lower()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"heads": 3}, "3 heads"),
        ({"layers": 0}, "layers"),
        ({"context": 0}, "context"),
        ({"dropout": 1.0}, "dropout"),
        ({"width": 2**17, "hidden": 2**17, "heads": 1}, "weights"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        create_model("language_model", **{**TINY, **options})


def test_a_block_longer_than_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="model's context is 7"):
        tiny()(Tensor(np.ones((1, 8), np.int32)))
