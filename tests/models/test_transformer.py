"""The Transformer: forward pass against float64 NumPy, padding, sizes, and who trains it."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters
from oracle.bridge import randomise
from oracle.transformer import TransformerOracle, weights_of

from mindspore_thor import THOR, TrainStep
from mindspore_thor.errors import UserError
from models import create_model
from models.transformer import translate
from models.transformer.sizes import parameter_count

TINY = {
    "vocab_size": 11,
    "width": 8,
    "hidden": 12,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "dropout": 0.0,
    "max_length": 16,
}
SOURCES = [[5, 9, 3, 7, 2], [4, 2], [10, 6, 8, 2]]
TARGETS = [[1, 8, 3], [1, 9, 9, 4, 6, 5], [1]]


def padded(sentences: list[list[int]], length: int) -> np.ndarray:
    return np.array([s + [0] * (length - len(s)) for s in sentences], np.int32)


def tiny(seed: int = 1, **options: Any) -> nn.Cell:
    net = create_model("transformer", **{**TINY, **options})
    return randomise(net, seed).set_train(False)


def greedy(net: nn.Cell, source: np.ndarray, max_length: int) -> list[list[int]]:
    """By the whole forward pass, one more token at a time, without any cache."""
    training, results = net.training, []
    net.set_train(False)
    target = np.zeros((len(source), max_length + 1), np.int32)
    target[:, 0] = 1
    for t in range(max_length):
        logits = net(Tensor(source), Tensor(target)).asnumpy()[:, t]
        target[:, t + 1] = logits[:, 2:].argmax(-1) + 2
        target[:, t + 1][target[:, t] == 2] = 2
    net.set_train(training)
    for row in target[:, 1:].tolist():
        results.append(row[: row.index(2)] if 2 in row else row)
    return results


class TokenLoss(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss(ignore_index=0)

    def construct(self, logits, labels):
        return self.loss(logits.reshape((-1, logits.shape[-1])), labels.reshape((-1,)))


@pytest.mark.parametrize(
    "options",
    [
        {"tied": True, "norm_first": True, "attention_bias": False},
        {"tied": False, "norm_first": False, "attention_bias": True, "encoder_layers": 2},
        {"tied": True, "norm_first": False, "heads": 4, "decoder_layers": 2},
    ],
    ids=["pre_tied", "post_untied_bias", "post_tied_two"],
)
def test_logits_are_the_oracles_without_padding(options: dict[str, Any]) -> None:
    net = tiny(**options)
    heads = options.get("heads", TINY["heads"])
    oracle = TransformerOracle(weights_of(net), heads, options["tied"], options["norm_first"])
    source, target = padded(SOURCES, 7), padded(TARGETS, 6)
    logits = net(Tensor(source), Tensor(target))
    assert logits.shape == (3, 6, 11)
    assert logits.dtype == ms.float32
    memory = net.encode(Tensor(source))
    parts = net.decode(Tensor(target), memory, Tensor(source)).asnumpy()
    for n, (s, t) in enumerate(zip(SOURCES, TARGETS)):
        expected = oracle.logits(s, t)
        np.testing.assert_allclose(logits.asnumpy()[n, : len(t)], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(memory.asnumpy()[n, : len(s)], oracle.encode(s), atol=1e-4)
        np.testing.assert_allclose(parts[n, : len(t)], expected, rtol=1e-4, atol=1e-4)


class Probed(nn.Cell):
    """A Dense layer with something added to its output, whose gradient is the output's."""

    def __init__(self, layer: nn.Dense, rows: int, length: int) -> None:
        super().__init__(auto_prefix=False)
        self.layer = layer
        zeros = np.zeros((rows, length, layer.weight.shape[0]), np.float32)
        self.probe = ms.Parameter(Tensor(zeros), name=f"probe.{layer.weight.name}")

    def construct(self, x):
        return self.layer(x) + self.probe


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_gradient_at_padding_is_exactly_zero(norm_first: bool) -> None:
    """At every Dense layer, for the loss of the real tokens; and no real token is without one."""
    net = tiny(tied=False, norm_first=norm_first, hidden=64)
    source, target = padded(SOURCES, 7), padded(TARGETS, 8)
    # Words at the left are padding, too.
    source[1], target[1] = np.roll(source[1], 3), np.roll(target[1], 2)
    labels = np.where(target > 0, np.arange(24).reshape(3, 8) % 10 + 1, 0).astype(np.int32)
    probes = []
    for layer in [*net.encoder, *net.decoder]:
        in_decoder = hasattr(layer, "cross_attention")
        attentions = [layer.attention] + ([layer.cross_attention] if in_decoder else [])
        for cell in attentions:
            for name in ("query", "key", "value", "out"):
                from_source = not in_decoder or (
                    cell is not layer.attention and name in "key value"
                )
                real = source if from_source else target
                probe = Probed(getattr(cell, name), *real.shape)
                setattr(cell, name, probe)
                # A token that sees only itself has no gradient at its query and its key.
                probes.append((probe.probe, real > 0, name in ("value", "out")))
        real = target if in_decoder else source
        for name in ("dense1", "dense2"):
            probe = Probed(getattr(layer.feed_forward, name), *real.shape)
            setattr(layer.feed_forward, name, probe)
            probes.append((probe.probe, real > 0, True))
    loss = TokenLoss()
    for i, parameter in enumerate(net.get_parameters()):
        parameter.name = f"parameter{i}"

    def forward(source, target, labels):
        return loss(net(source, target), labels)

    weights = ms.ParameterTuple([probe for probe, _, _ in probes])
    gradients = ms.value_and_grad(forward, None, weights)(*map(Tensor, (source, target, labels)))[1]
    assert len(gradients) == 4 + 2 + 8 + 2
    for gradient, (probe, real, everywhere) in zip(gradients, probes):
        at_all = (gradient.asnumpy() != 0).any(-1)
        assert not at_all[~real].any(), probe.name
        assert at_all.any(), probe.name
        if everywhere:
            np.testing.assert_array_equal(at_all, real, err_msg=probe.name)


def test_more_padding_changes_nothing_that_counts() -> None:
    net = tiny()
    short = net(Tensor(padded(SOURCES, 5)), Tensor(padded(TARGETS, 6))).asnumpy()
    long = net(Tensor(padded(SOURCES, 9)), Tensor(padded(TARGETS, 8))).asnumpy()
    for n, t in enumerate(TARGETS):
        np.testing.assert_allclose(short[n, : len(t)], long[n, : len(t)], rtol=1e-5, atol=1e-5)


def test_a_source_of_nothing_but_padding_gives_numbers() -> None:
    net = tiny()
    source = padded([[4, 2], []], 3)
    assert np.isfinite(net(Tensor(source), Tensor(padded([[1], []], 2))).asnumpy()).all()


def test_dropout_acts_in_training_alone() -> None:
    net = tiny(dropout=0.5, attention_dropout=0.5)
    plain = tiny()
    inputs = Tensor(padded(SOURCES, 5)), Tensor(padded(TARGETS, 6))
    noise = Tensor(np.arange(len(SOURCES), dtype=np.int32))
    np.testing.assert_array_equal(net(*inputs, noise).asnumpy(), plain(*inputs).asnumpy())
    net.set_train(True)
    assert np.abs(net(*inputs, noise).asnumpy() - plain(*inputs).asnumpy()).max() > 1e-3


def test_initial_values() -> None:
    """Xavier: uniform in +-sqrt(6 / (in + out)); tables normal with deviation d^-1/2."""
    ms.set_seed(3)
    net = create_model("transformer", vocab_size=400, width=64, hidden=96, tied=False)
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.Dense):
            weight = cell.weight.asnumpy()
            edge = np.sqrt(6 / sum(weight.shape))
            assert 0.99 * edge < np.abs(weight).max() <= edge
            # Five standard errors; the variance of x^2 is 4/45 edge^4 where x is uniform.
            error = 5 * np.sqrt(4 / 45 / weight.size)
            assert abs((weight**2).mean() / edge**2 - 1 / 3) < error
            assert not cell.has_bias or (cell.bias.asnumpy() == 0).all()
        if isinstance(cell, nn.Embedding):
            table = cell.embedding_table.asnumpy()
            assert abs(table.std() * np.sqrt(64) - 1) < 5 / np.sqrt(2 * table.size)


def names(net: nn.Cell) -> set[str]:
    return {p.name for p in net.trainable_params()}


def test_tied_tables_are_one_parameter() -> None:
    tied, untied = names(tiny(tied=True)), names(tiny(tied=False))
    tables = {"source_embedding.embedding_table", "target_embedding.embedding_table"}
    assert untied - tied == tables | {"generator.weight"}
    assert tied - untied == {"embedding.embedding_table"}
    assert not any("positions" in name for name in tied)


def count(net: nn.Cell) -> int:
    return sum(int(np.prod(p.shape)) for p in net.trainable_params())


def test_big_has_the_zoos_213_7_million_parameters() -> None:
    d, f, v, n = 1024, 4096, 36560, 6
    attention, feed_forward, norm = 4 * d * d, d * f + f + f * d + d, 2 * d
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    expected = v * d + n * (encoder + decoder) + 2 * norm
    with no_init_parameters():  # 0.85 GB otherwise
        net = create_model("transformer_big")
    assert count(net) == expected
    assert round(expected / 1e6, 1) == 213.7


@pytest.mark.parametrize(
    ("name", "d", "f", "layers"),
    [
        ("transformer_tiny", 128, 256, 4),
        ("transformer_small", 256, 512, 3),
        ("transformer_base", 512, 2048, 6),
        ("transformer_fngd", 512, 2048, 6),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_counts_of_the_other_sizes(name: str, d: int, f: int, layers: int, tied: bool) -> None:
    with no_init_parameters():
        net = create_model(name, vocab_size=50, tied=tied, norm_first=tied, attention_bias=not tied)
    options = (tied, tied, not tied)
    assert count(net) == parameter_count(50, d, f, layers, layers, *options)
    bias = 0 if tied else 4 * d
    per_pair = 3 * (4 * d * d + bias) + 2 * (2 * d * f + f + d) + 5 * 2 * d
    assert count(net) == layers * per_pair + (1 if tied else 3) * 50 * d + (4 * d if tied else 0)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_thor_covers_every_dense_layer_and_no_tied_table(tied: bool) -> None:
    net = create_model("transformer", **{**TINY, "hidden": 8, "tied": tied, "dropout": 0.1})
    optimizer = THOR(net, 0.01, damping=0.1)
    step = TrainStep(net, TokenLoss(), optimizer)
    labels = padded([[*t[1:], 2] for t in TARGETS], 6)
    noise = np.arange(len(SOURCES), dtype=np.int32)
    inputs = (padded(SOURCES, 7), padded(TARGETS, 6), noise, labels)
    losses = [float(step(*map(Tensor, inputs)).asnumpy()) for _ in range(2)]
    assert np.isfinite(losses).all()
    rows = {row.layer: row for row in optimizer.layer_report()}
    dense = [name for name, row in rows.items() if row.type == "Dense"]
    assert len(dense) == 4 + 2 + 8 + 2 + (not tied)
    assert all(rows[name].covered and rows[name].accepted for name in dense)
    tables = {name: row.covered for name, row in rows.items() if row.type == "Embedding"}
    if tied:
        assert tables == {"embedding": False}
        assert "used outside" in rows["embedding"].reason
        # The hooks are still in the layers.
        found = translate(net, padded(SOURCES, 7), max_length=3)
        assert found == greedy(net, padded(SOURCES, 7), 3)
    else:
        assert tables == {"source_embedding": True, "target_embedding": True}


def test_layers_of_one_shape_are_one_group() -> None:
    """Attentions' 512 x 512 layers must not fall apart into groups: compile time goes with them."""
    net = create_model("transformer", **{**TINY, "encoder_layers": 3, "decoder_layers": 2})
    groups = THOR(net, 0.01, damping=0.1).groups
    table, feed_forward, norms, attention = 1, 3 + 2, 3 * 2 + 2 * 3 + 2, (3 + 2 * 2) * 4
    expected = [table, feed_forward, feed_forward, norms, attention]
    assert sorted(group.layers for group in groups) == expected


def test_a_sentence_beyond_max_length_is_one_line() -> None:
    net = tiny()
    with pytest.raises(UserError, match="17 tokens, the model's max_length is 16") as caught:
        net(Tensor(padded(SOURCES, 17)), Tensor(padded(TARGETS, 6)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "3 heads .* do not divide its width 8"),
        ({"heads": 0}, "heads of transformer is 0: give at least 1"),
        ({"decoder_layers": -1}, "decoder_layers .* is -1: give at least 1"),
        ({"vocab_size": 3}, "vocab_size .* is 3: give at least 4"),
        ({"dropout": 1.0}, "dropout .* is 1.0: give a share"),
        ({"attention_dropout": -0.1}, "attention_dropout .* is -0.1: give a share"),
        ({"width": 2**17}, "more than .* weights"),
        ({"tied": 1}, "is 1: give true or false"),
        ({"max_length": 0}, "max_length .* is 0"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        create_model("transformer", **{**TINY, **options})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_positions_are_the_papers() -> None:
    net = tiny(width=6)
    p, i = 5, 2
    table = net.positions.asnumpy()
    assert table.shape == (16, 6)
    assert table[p, 2 * i] == pytest.approx(np.sin(p / 10000 ** (2 * i / 6)), abs=1e-6)
    assert table[p, 2 * i + 1] == pytest.approx(np.cos(p / 10000 ** (2 * i / 6)), abs=1e-6)
