"""Greedy and beam search with a Transformer, compiled once for each shape of the sources.

Two graphs: one encodes, the other makes one token of all prefixes, with the keys and values of the
tokens before it (:mod:`models.transformer.step`). Between its runs NumPy chooses the prefixes
(:mod:`models.transformer.beams`), and stops when all sentences are done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.errors import UserError, quoted

from .beams import Beams
from .step import Memories, Step
from .transformer import Transformer

MOST_BEAM = 1024


class Translator:
    """Searches for the most likely translations.

    A translation's score is log p / ((5 + |Y|) / 6)^length_penalty (GNMT), with |Y| its tokens,
    the end included. ``beam=1`` is greedy search. The net's parameters are shared: every call uses
    what they are then. Ties are decided by the order of the prefixes, then of the ids.

    Args:
        net: The Transformer.
        beam: Prefixes that are kept for each sentence.
        length_penalty: The exponent, not negative; 0 compares plain log probabilities.
        max_length: Most tokens of a translation, without its end; below the net's ``max_length``,
            which counts the beginning, too.

    Attributes:
        graphs: What is compiled.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(
        self,
        net: Transformer,
        *,
        beam: int = 4,
        length_penalty: float = 0.6,
        max_length: int = 64,
    ) -> None:
        if not isinstance(net, Transformer):
            raise UserError(f"a Translator needs a Transformer: {type(net).__name__} is none")
        if type(beam) is not int or not 1 <= beam <= MOST_BEAM:
            raise UserError(f"beam is {quoted(beam)}: give a whole number from 1 to {MOST_BEAM}")
        number = type(length_penalty) in (int, float) and math.isfinite(length_penalty)
        if not number or not 0 <= length_penalty <= 10:
            raise UserError(f"length_penalty is {quoted(length_penalty)}: give 0 to 10")
        if type(max_length) is not int or not 1 <= max_length < net.max_length:
            raise UserError(
                f"max_length of the search is {quoted(max_length)}: give 1 to "
                f"{net.max_length - 1}, for the model's is {net.max_length} with the beginning"
            )
        self._net = net
        self._beam, self._alpha, self._max_length = beam, float(length_penalty), max_length
        self._memories = Memories(net)
        self._step = Step(net, beam, max_length + 1)
        self.graphs = (self._memories, self._step)
        self._most: dict[int, int] = {}

    def __call__(self, source: np.ndarray) -> list[list[int]]:
        """Translate a batch.

        A batch smaller than an earlier one with the same S is filled up, and does not compile
        again. The net's training flags are put back.

        Args:
            source: Ids [N, S] of whole numbers, 0 for padding.

        Returns:
            The ids of the N translations, without beginning and end. Nothing for a sentence whose
            output is no number.

        Raises:
            UserError: The source is no such array, or too long.
        """
        ids = self._checked(source)
        count, length = ids.shape
        if not count:
            return []
        rows = self._most[length] = max(count, self._most.get(length, 0))
        filled = np.zeros((rows, length), np.int32)
        filled[:count] = ids
        with evaluating(self._net):
            return self._search(filled, count)[:count]

    def _search(self, source: np.ndarray, used: int) -> list[list[int]]:
        net, rows = self._net, source.shape[0]
        mask, *memories = self._memories(Tensor(source))
        shape = (rows * self._beam, net.heads, self._max_length + 1, net.width // net.heads)
        past: Any = (Tensor(np.zeros(shape, np.float32)),) * len(memories)
        beams = Beams(rows, self._beam, self._max_length, self._alpha, used)
        for place in range(self._max_length + 1):
            best, tokens, end, past = self._step(
                Tensor(beams.ids),
                Tensor(beams.parents.reshape(-1)),
                Tensor(np.array([place], np.int32)),
                mask,
                *memories,
                *past,
            )
            beams.advance(best.asnumpy(), tokens.asnumpy(), end.asnumpy())
            if beams.done.all():
                break
        return beams.translations

    def _checked(self, source: Any) -> np.ndarray:
        net = self._net
        ids = source.asnumpy() if isinstance(source, Tensor) else np.asarray(source)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.shape[1]:
            raise UserError(
                f"the source has shape {quoted(ids.shape)} and type {ids.dtype}: give ids [N, S], "
                "whole numbers"
            )
        if ids.shape[1] > net.max_length:
            raise UserError(
                f"a source of {ids.shape[1]} tokens, the model's max_length is {net.max_length}: "
                "give shorter ones"
            )
        if ids.size and not (ids.min() >= 0 and ids.max() < net.vocab_size):
            raise UserError(
                f"the source's ids go from {ids.min()} to {ids.max()}, the model's from 0 to "
                f"{net.vocab_size - 1}: encode it with the model's vocabulary"
            )
        return ids


@contextmanager
def evaluating(net: nn.Cell) -> Iterator[None]:
    """Switch dropout off, and put every cell's flag back, also where some are frozen."""
    training = [cell for _, cell in net.cells_and_names() if cell.training]
    phase = net.phase
    net.set_train(False)
    try:
        yield
    finally:
        for cell in training:
            cell.add_flags(training=True)
        net.phase = phase


def translate(
    net: Transformer,
    source: np.ndarray,
    *,
    max_length: int,
    beam: int = 1,
    length_penalty: float = 0.6,
) -> list[list[int]]:
    """Translate one batch; to translate more, keep a :class:`Translator`, which has the arguments.

    Args:
        net: The Transformer.
        source: Ids int32 [N, S], 0 for padding.
        max_length: Most tokens of a translation, without its end.
        beam: Prefixes that are kept for each sentence; 1 is greedy search.
        length_penalty: Exponent of the score.

    Returns:
        The ids of the N translations, without beginning and end.

    Raises:
        UserError: An argument is out of its range.
    """
    search = Translator(net, beam=beam, length_penalty=length_penalty, max_length=max_length)
    return search(source)
