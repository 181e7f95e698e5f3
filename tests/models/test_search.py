"""Greedy and beam search: against all translations there are, the whole forward pass, and rules."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import randomise
from oracle.transformer import TransformerOracle, log_softmax, weights_of

from mindspore_thor.errors import UserError
from models import create_model
from models.transformer import Translator, translate
from models.transformer.beams import Beams, penalty
from models.transformer.step import Memories, Step

TINY = {"width": 8, "hidden": 12, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def tiny(seed: int, vocab_size: int = 7, spread: float = 2.0, **options: Any) -> nn.Cell:
    """A net whose output hangs on source and prefix, with an end that is likely at times."""
    options = {**TINY, "vocab_size": vocab_size, "dropout": 0.4, "max_length": 12, **options}
    net = randomise(create_model("transformer", **options), seed)
    for p in net.get_parameters():
        if "gamma" not in p.name and "beta" not in p.name:
            p.set_data(p * spread)
    return net


def sources(rows: int, vocab_size: int = 7, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 5, rows)
    return [[*generator.integers(3, vocab_size, n).tolist(), 2] for n in lengths]


def padded(sentences: list[list[int]], length: int) -> np.ndarray:
    return np.array([s + [0] * (length - len(s)) for s in sentences], np.int32)


def oracle(net: nn.Cell, tied: bool = True) -> TransformerOracle:
    return TransformerOracle(weights_of(net), TINY["heads"], tied, True)


def test_a_beam_as_wide_as_all_translations_finds_the_best() -> None:
    """85 translations of at most 3 of 4 words (unk is one): 1 + 4 + 16 + 64."""
    net, sentences = tiny(1), sources(6)
    found = {}
    for alpha in (0.0, 0.6, 2.0):
        search = Translator(net, beam=90, length_penalty=alpha, max_length=3)
        found[alpha] = search(padded(sentences, 6))
        for source, result in zip(sentences, found[alpha]):
            scores = oracle(net).all_scores(source, 3, alpha)
            assert len(scores) == 85
            best, second = sorted(scores, key=scores.__getitem__)[:-3:-1]
            assert scores[best] - scores[second] > 1e-4, "a tie: choose another seed"
            assert tuple(result) == best
    # The question must have several answers, and the penalty a say in them.
    assert len({tuple(y) for y in found[0.6]}) > 1
    assert sum(map(len, found[0.0])) < sum(map(len, found[2.0]))


def test_greedy_is_the_argmax_of_the_whole_forward_pass() -> None:
    net, sentences = tiny(8, tied=False, decoder_layers=2), sources(8)
    found = translate(net, padded(sentences, 5), max_length=6)
    for source, result in zip(sentences, found):
        target: list[int] = []
        memory = oracle(net, tied=False).encode(source)
        while len(target) < 6:
            logits = oracle(net, tied=False).decode([1, *target], memory)[-1]
            best, second = np.sort(logits[2:])[:-3:-1]
            assert best - second > 1e-4, "a tie: choose another seed"
            token = int(logits[2:].argmax()) + 2
            if token == 2:
                break
            target.append(token)
        assert result == target
    assert len({len(y) for y in found}) > 1


@pytest.mark.parametrize("norm_first", [True, False])
def test_kept_keys_and_values_are_those_of_the_prefixes(norm_first: bool) -> None:
    """Prefixes that move, between sentences' beams, against float64 without anything kept."""
    net = tiny(3, norm_first=norm_first, decoder_layers=2).set_train(False)
    sentences, beam, length = sources(2), 3, 4
    reference = TransformerOracle(weights_of(net), TINY["heads"], True, norm_first)
    mask, *memories = Memories(net)(Tensor(padded(sentences, 5)))
    step = Step(net, beam, length)
    past = [Tensor(np.zeros((2 * beam, 2, length, 4), np.float32))] * 4
    generator = np.random.default_rng(4)
    prefixes: list[list[int]] = [[] for _ in range(2 * beam)]
    for place in range(length):
        parents = np.concatenate([generator.integers(0, beam, beam) + n * beam for n in (0, 1)])
        ids = generator.integers(2, 7, 2 * beam) if place else np.ones(2 * beam, int)
        prefixes = [[*prefixes[parent], int(token)] for parent, token in zip(parents, ids)]
        best, tokens, end, past = step(
            Tensor(ids.reshape(2, beam).astype(np.int32)),
            Tensor(parents.astype(np.int32)),
            Tensor(np.array([place], np.int32)),
            mask,
            *memories,
            *past,
        )
        assert best.shape == tokens.shape == (2, beam, 5)
        for row, prefix in enumerate(prefixes):
            n, b = divmod(row, beam)
            logs = log_softmax(reference.logits(sentences[n], prefix)[-1])
            np.testing.assert_allclose(end.asnumpy()[n, b], logs[2], rtol=1e-4, atol=1e-4)
            order = np.argsort(-logs[2:], kind="stable") + 2
            np.testing.assert_array_equal(tokens.asnumpy()[n, b], order)
            np.testing.assert_allclose(best.asnumpy()[n, b], logs[order], rtol=1e-4, atol=1e-4)


def test_padding_and_company_change_no_translation() -> None:
    net, sentences = tiny(5, vocab_size=10), sources(5, 10)
    search = Translator(net, beam=3, max_length=5)
    together = search(padded(sentences, 5))
    assert search(padded(sentences, 9)) == together
    assert [search(padded([s], 5))[0] for s in sentences] == together
    assert len({tuple(y) for y in together}) > 1
    # Two lengths, and the single sentences filled up to five.
    assert len(search._step.compile_cache) == 2


def test_decoding_sees_the_current_weights_and_leaves_the_flags() -> None:
    net, sentences = tiny(6, vocab_size=10), padded(sources(6, 10), 5)
    search = Translator(net, beam=2, max_length=4)
    net.set_train(True)
    net.encoder[0].set_train(False)
    flags = [cell.training for _, cell in net.cells_and_names()]
    before, phase = search(sentences), net.phase
    assert search(sentences) == before, "dropout"
    assert [cell.training for _, cell in net.cells_and_names()] == flags
    assert net.phase == phase == "train"
    for p, q in zip(net.get_parameters(), tiny(7, vocab_size=10).get_parameters()):
        p.set_data(q.value())
    assert search(sentences) == Translator(net, beam=2, max_length=4)(sentences) != before


def test_no_number_ends_the_search() -> None:
    net = tiny(8)
    for p in net.get_parameters():
        p.set_data(ms.ops.full_like(p, float("nan")))
    assert translate(net, padded(sources(2), 5), max_length=3, beam=2) == [[], []]
    assert translate(net, np.zeros((0, 5), np.int32), max_length=3) == []


def test_the_penalty_is_gnmts() -> None:
    assert penalty(1, 0.6) == 1.0
    assert penalty(7, 0.6) == pytest.approx(2.0**0.6)
    assert penalty(7, 0.0) == 1.0


def logs(*rows: dict[int, float], size: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a step returns for one sentence: each prefix's token -> log p, the best ``size``."""
    filled = [{**{9 + i: -50.0 - i for i in range(size)}, **row} for row in rows]
    ordered = [sorted(row.items(), key=lambda item: -item[1])[:size] for row in filled]
    best = np.array([[[value for _, value in row] for row in ordered]], np.float32)
    tokens = np.array([[[token for token, _ in row] for row in ordered]], np.int32)
    return best, tokens, np.array([[row.get(2, -60.0) for row in filled]], np.float32)


def test_a_search_step_by_step() -> None:
    beams = Beams(1, 2, max_length=3, alpha=0.0, used=1)
    beams.advance(*logs({3: -1.0, 4: -2.0, 2: -3.0}, {3: 0.0}))
    # The second prefix does not exist yet; the end is only the third.
    assert beams.ids.tolist() == [[3, 4]]
    assert beams.parents.tolist() == [[0, 0]]
    beams.advance(*logs({5: -4.0, 2: -4.5}, {6: -0.5, 2: -1.0}))
    # -2.5 (4 6), -3 (4 end), -5 (3 5), -5.5 (3 end), of which the second is a translation.
    assert beams.translations == [[4]]
    assert beams.scores.tolist() == [-3.0]
    assert beams.ids.tolist() == [[6, 5]]
    assert beams.parents.tolist() == [[1, 0]]
    assert not beams.done[0]
    beams.advance(*logs({2: -0.25, 7: -0.5}, {2: -0.1}))
    # -2.75 (4 6 end) is better than -3, and better than all that can come.
    assert beams.translations == [[4, 6]]
    assert beams.done[0]


def test_with_max_length_tokens_only_the_end_may_follow() -> None:
    beams = Beams(1, 2, max_length=1, alpha=1.0, used=1)
    beams.advance(*logs({3: -1.0, 4: -1.5, 2: -9.0}, {}))
    beams.advance(*logs({5: -0.1, 2: -4.0}, {2: -3.0}))
    assert beams.translations == [[4]]
    assert beams.scores[0] == pytest.approx(-4.5 / (7 / 6))
    assert beams.done[0]


def test_a_long_translation_waits_for_its_penalty() -> None:
    """-2 against -2.1 at once: with alpha 2 the prefix may become the better one, and does."""
    for alpha, expected in ((0.0, []), (2.0, [3])):
        beams = Beams(1, 2, max_length=2, alpha=alpha, used=1)
        beams.advance(*logs({2: -2.0, 3: -2.1}, {}))
        assert beams.done[0] == (alpha == 0.0)
        if alpha:
            beams.advance(*logs({2: -0.01}, {}))
        assert beams.translations == [expected]


def test_ties_go_by_prefix_and_id() -> None:
    beams = Beams(1, 3, max_length=3, alpha=0.0, used=1)
    beams.advance(*logs({8: -1.0, 5: -1.0, 6: -1.0, 3: -1.0}, {}, {}))
    assert beams.ids.tolist() == [[3, 5, 6]]
    beams.advance(*logs({7: -1.0}, {6: -1.0, 4: -1.0}, {3: -1.0}))
    assert beams.ids.tolist() == [[7, 4, 6]]
    assert beams.parents.tolist() == [[0, 1, 1]]


def test_sentences_that_only_fill_up_are_done() -> None:
    assert Beams(3, 2, max_length=4, alpha=0.6, used=1).done.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beam": 0}, "beam is 0: give a whole number from 1"),
        ({"beam": True}, "beam is True"),
        ({"beam": 10**9}, "beam is 1000000000"),
        ({"length_penalty": -0.1}, "length_penalty is -0.1"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"max_length": 12}, "max_length of the search is 12: give 1 to 11"),
        ({"max_length": 0}, "max_length of the search is 0"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Translator(tiny(1), **{"max_length": 4, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((2, 3), np.float32), "type float32: give ids"),
        (np.zeros(3, np.int32), r"shape \(3,\)"),
        (np.zeros((2, 0), np.int32), r"shape \(2, 0\)"),
        (np.zeros((1, 13), np.int32), "13 tokens, the model's max_length is 12"),
        (np.full((1, 3), 7, np.int32), "from 7 to 7, the model's from 0 to 6"),
        (np.full((1, 3), -1, np.int32), "from -1 to -1"),
    ],
)
def test_bad_sources(source: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Translator(tiny(1), max_length=4)(source)
    assert "\n" not in str(caught.value)


def test_not_a_transformer() -> None:
    with pytest.raises(UserError, match="a Translator needs a Transformer: Dense is none"):
        Translator(nn.Dense(2, 2), max_length=4)
