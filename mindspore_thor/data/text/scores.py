"""BLEU and chrF of translations, by sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mindspore_thor.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of a test set, with the signatures that say how they were computed.

    Attributes:
        bleu: Corpus BLEU, 0 to 100 (Papineni et al., 2002; Post, 2018).
        chrf: Corpus chrF2, 0 to 100 (Popovic, 2015).
        bleu_signature: sacreBLEU's signature of the first.
        chrf_signature: sacreBLEU's signature of the second.
    """

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str

    def __str__(self) -> str:
        return (
            f"BLEU {self.bleu:.2f} ({self.bleu_signature}), "
            f"chrF {self.chrf:.2f} ({self.chrf_signature})"
        )


def translation_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenized: bool = False,
    lowercase: bool = False,
) -> Scores:
    """Score translations against one reference each.

    Args:
        hypotheses: Translations, one per sentence.
        references: What they should be, in the same order.
        tokenized: Whether both are cut into tokens already (``vocabulary.tokenized``): BLEU then
            takes them as they are. Such a BLEU is not comparable with one of plain text.
        lowercase: Whether case does not count. The signature says so; never compare the two.

    Raises:
        UserError: sacreBLEU is missing, there is nothing to score, or the numbers differ.
    """
    sacrebleu = _sacrebleu()
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} translations cannot be scored against {len(references)} "
            "references: give one for each"
        )
    if not references:
        raise UserError("there is no translation to score: give at least one sentence")
    bleu = sacrebleu.metrics.BLEU(
        tokenize="none" if tokenized else "13a", lowercase=lowercase, force=tokenized
    )
    chrf = sacrebleu.metrics.CHRF(lowercase=lowercase)
    one = bleu.corpus_score(list(hypotheses), [list(references)])
    other = chrf.corpus_score(list(hypotheses), [list(references)])
    return Scores(
        bleu=float(one.score),
        chrf=float(other.score),
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise UserError(
            "sacreBLEU is missing: install it with pip install 'mindspore_thor[translate]'"
        ) from None
    return sacrebleu
