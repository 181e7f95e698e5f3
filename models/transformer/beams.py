"""The bookkeeping of a beam search, in NumPy."""

from __future__ import annotations

import numpy as np

from .transformer import BOS, EOS, PAD


def penalty(length: int, alpha: float) -> float:
    """Return ((5 + length) / 6)^alpha (Wu et al. 2016, "GNMT", Eq. 14, without coverage).

    Args:
        length: Tokens |Y| of a translation, its end included.
        alpha: 0 for none; larger ones favour long translations.
    """
    return ((5 + length) / 6) ** alpha


class Beams:
    """The B best prefixes of N sentences, and the best translation that each has so far.

    A sentence's candidates are all prefixes with one token more. Of the 2 B with the largest log
    probability those that end, and are among the first B, become translations; the first B of the
    others are the next prefixes. A translation's score is log p / ``penalty``. A sentence is done
    with its B-th translation, or as soon as no prefix can become better than the best one.
    Candidates of one score come in the order of their prefixes and then of their ids.

    Args:
        sentences: Number of sentences N.
        beam: Prefixes B of each.
        max_length: Most tokens of a translation, without its end. What has as many can only end.
        alpha: See ``penalty``; not negative.
        used: Sentences that are wanted; those behind them are done from the beginning.

    Attributes:
        done: Which sentences are, bool [N].
        ids: The prefixes' last tokens, int32 [N, B].
        parents: Which of the prefixes before each one extends, int32 [N, B], counted over all.
    """

    def __init__(self, sentences: int, beam: int, max_length: int, alpha: float, used: int) -> None:
        self.done = np.arange(sentences) >= used
        self.ids = np.full((sentences, beam), BOS, np.int32)
        self.parents = np.arange(sentences * beam, dtype=np.int32).reshape(sentences, beam)
        self._own = self.parents.copy()
        self._beam, self._max_length, self._alpha = beam, max_length, alpha
        # One prefix to begin with: B equal ones would remain equal.
        self._scores = np.full((sentences, beam), -np.inf)
        self._scores[:, 0] = 0.0
        self._prefixes = np.full((sentences, beam, max_length), PAD, np.int32)
        self._length = 0
        self._count = np.zeros(sentences, int)
        self._best = np.full(sentences, -np.inf)
        self._translations: list[list[int]] = [[] for _ in range(sentences)]

    @property
    def translations(self) -> list[list[int]]:
        """The best translation of each sentence, without its end; nothing where there is none."""
        return self._translations

    @property
    def scores(self) -> np.ndarray:
        """Their scores, float64 [N]; -inf where there is none."""
        return self._best

    def advance(self, best: np.ndarray, tokens: np.ndarray, end: np.ndarray) -> None:
        """Extend all prefixes by one token.

        Args:
            best: Log probabilities of each prefix's most likely tokens, [N, B, K], K >= 2 unless
                there are no more tokens.
            tokens: Their ids, [N, B, K].
            end: Log probability of each prefix's end, [N, B].
        """
        if self._length == self._max_length:
            self._end_all(end)
            return
        totals = self._scores[:, :, None] + best
        # An output that is no number counts as impossible: a search ends, whatever the net is.
        totals = np.where(np.isnan(totals), -np.inf, totals)
        sentences, beam, count = totals.shape
        flat, ids = totals.reshape(sentences, -1), tokens.reshape(sentences, -1)
        prefix = np.broadcast_to(np.repeat(np.arange(beam), count), flat.shape)
        order = np.lexsort((ids, prefix, -flat))[:, : 2 * beam]
        self.parents = self._own.copy()
        self.ids = np.full_like(self.ids, EOS)
        scores = np.full_like(self._scores, -np.inf)
        for n in np.flatnonzero(~self.done):
            kept = 0
            for rank, place in enumerate(order[n]):
                total, token, parent = flat[n, place], ids[n, place], prefix[n, place]
                if total == -np.inf:
                    break
                if token == EOS:
                    if rank < beam:
                        self._end(n, parent, total)
                elif kept < beam:
                    scores[n, kept], self.ids[n, kept] = total, token
                    self.parents[n, kept] = self._own[n, parent]
                    kept += 1
        moved = self._prefixes.reshape(-1, self._max_length)[self.parents]
        moved[:, :, self._length] = self.ids
        self._prefixes, self._scores = moved, scores
        self._length += 1
        # No prefix's log p rises, and no penalty is larger than that of the longest translation.
        most = scores.max(1) / penalty(self._max_length + 1, self._alpha)
        self.done |= (self._count >= self._beam) | (self._best >= most)

    def _end(self, n: int, parent: int, total: float) -> None:
        score = total / penalty(self._length + 1, self._alpha)
        self._count[n] += 1
        if score > self._best[n]:
            self._best[n] = score
            self._translations[n] = self._prefixes[n, parent, : self._length].tolist()

    def _end_all(self, end: np.ndarray) -> None:
        totals = self._scores + end
        for n in np.flatnonzero(~self.done):
            for parent in range(self._beam):
                if totals[n, parent] > -np.inf:  # neither for NaN
                    self._end(n, parent, totals[n, parent])
        self.done[:] = True
