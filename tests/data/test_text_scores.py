"""BLEU and chrF, against the formula on sentences that can be counted by hand."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
from hostile import line

from mindspore_thor.data.text import Scores, translation_scores
from mindspore_thor.data.text.vocabulary import SentencePieceVocabulary
from mindspore_thor.errors import UserError


def test_bleu_is_the_geometric_mean_of_the_precisions() -> None:
    # 10 words with the full stop, the last but one wrong: matches 9/10, 7/9, 6/8, 5/7.
    reference = "the old man sees a red apple every day."
    scores = translation_scores([reference.replace("day", "night")], [reference])
    precisions = (9 / 10, 7 / 9, 6 / 8, 5 / 7)
    expected = 100 * math.exp(sum(map(math.log, precisions)) / 4)
    assert scores.bleu == pytest.approx(expected, abs=1e-9)
    assert 50 < scores.chrf < 100


def test_a_short_translation_pays_for_it() -> None:
    # All 8 words right, of 10: exp(1 - 10 / 8).
    reference = "one two three four five six seven eight nine ten"
    scores = translation_scores([" ".join(reference.split()[:8])], [reference])
    assert scores.bleu == pytest.approx(100 * math.exp(-0.25), abs=1e-9)


def test_case_and_tokens_are_counted_as_the_signature_says() -> None:
    texts = ["Der Hund , der schläft ."] * 2
    lower = [text.lower() for text in texts]
    assert translation_scores(lower, lower).bleu == pytest.approx(100)
    assert translation_scores(lower, texts).bleu < 60
    scores = translation_scores(lower, texts, lowercase=True)
    assert scores.bleu == pytest.approx(100) and "case:lc" in scores.bleu_signature
    plain, tokenized = (
        translation_scores(texts, texts),
        translation_scores(texts, texts, tokenized=True),
    )
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in plain.bleu_signature
    assert "tok:none" in tokenized.bleu_signature and "version:" in tokenized.chrf_signature
    # "don't" is one token as it stands, "a-b," two more when it is cut.
    assert translation_scores(["x y z a,"], ["x y z a"], tokenized=True).bleu < plain.bleu
    assert (
        str(plain) == f"BLEU 100.00 ({plain.bleu_signature}), chrF 100.00 ({plain.chrf_signature})"
    )


def test_scores_that_cannot_be_computed() -> None:
    for hypotheses, references, words in (
        (["a"], ["a", "b"], "1 translations"),
        ([], [], "no tra"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            translation_scores(hypotheses, references)
        line(caught)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name in ("sacrebleu", "sentencepiece"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (
        lambda: translation_scores(["a"], ["a"]),
        lambda: SentencePieceVocabulary(tmp_path / "x"),
    ):
        with pytest.raises(UserError, match=r"pip install 'mindspore_thor\[translate\]'") as caught:
            call()
        line(caught)
    assert Scores(1.0, 2.0, "a", "b").bleu == 1.0
