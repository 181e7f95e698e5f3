"""The toy corpus: repeatable, disjoint splits, one translation each way, German as it should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_thor.data.text.toy import ToySide, toy_pair
from mindspore_thor.data.text.toy_words import BEINGS

SPLITS = ("train", "valid", "test")


@given(st.integers(0, 2**63 - 1), st.sampled_from(SPLITS), st.integers(0, 2**40 - 1))
def test_a_pair_is_a_function_of_seed_split_and_index(seed: int, split: str, index: int) -> None:
    english, german = toy_pair(seed, split, index)
    assert (english, german) == toy_pair(seed, split, index)
    for text in (english, german):
        assert text[0].isupper() and text.endswith(".") and text == " ".join(text.split())
        assert 2 <= len(text.split()) <= 12


def test_known_pairs_stay_what_they_are() -> None:
    """Written down once, and checked by a reader of German: the corpus is the same everywhere."""
    assert [toy_pair(0, "train", index) for index in (1, 5, 11, 12)] == [
        (
            "I know that the teacher does not swim near the river.",
            "Ich weiß, dass der Lehrer nicht neben dem Fluss schwimmt.",
        ),
        ("Forty warm horses fetch three queens.", "Vierzig warme Pferde holen drei Königinnen ab."),
        (
            "Sometimes the old teachers forget his poor kitchen lamps in the garden.",
            "Manchmal vergessen die alten Lehrer seine armen Küchenlampen im Garten.",
        ),
        ("They lift the horse in the forest.", "Sie heben das Pferd im Wald hoch."),
    ]


def test_seeds_and_indices_give_other_sentences() -> None:
    for one, other in (((0, 0), (1, 0)), ((0, 0), (0, 5000))):
        texts = [
            [toy_pair(seed, "train", first + i)[0] for i in range(40)]
            for seed, first in (one, other)
        ]
        assert len(set(texts[0]) & set(texts[1])) < 5


def test_no_sentence_is_in_two_splits_and_each_has_one_translation() -> None:
    pairs = {
        split: [toy_pair(seed, split, index) for seed in (0, 1) for index in range(1500)]
        for split in SPLITS
    }
    for side in (0, 1):
        texts = {split: {pair[side] for pair in pairs[split]} for split in SPLITS}
        assert not texts["train"] & texts["valid"]
        assert not texts["train"] & texts["test"]
        assert not texts["valid"] & texts["test"]
    everything = {pair for some in pairs.values() for pair in some}
    assert len({pair[0] for pair in everything}) == len(everything)
    assert len({pair[1] for pair in everything}) == len(everything)
    assert len(everything) > 4000


def test_the_verb_and_the_endings_follow_the_grammar() -> None:
    masculine = [noun.german for noun in BEINGS if noun.gender == "m"]
    seen = set()
    for index in range(3000):
        english, german = toy_pair(0, "train", index)
        words = german[:-1].split()
        if ", dass " in german or ", weil " in german:
            # The verb is last, and never a bare prefix.
            seen.add("end")
            assert words[-1] not in ("hoch", "ab", "an", "nicht")
        elif english.startswith("Today "):
            seen.add("second")
            assert words[0] == "Heute" and not words[1][0].isupper()
            assert words[1] not in ("der", "die", "das", "er", "sie")
        for article, noun in zip(words, words[1:]):
            if noun in masculine:  # "Lehrer" and "Bäcker" are plurals, too
                assert article not in ("das", "eine", "keine") or noun in ("Lehrer", "Bäcker")
        if " not " in f" {english} " and (" a " in english.split("not")[1]):
            seen.add("kein")
            assert "kein" in german and " nicht" not in german
        if "-" in english:
            seen.add("number")
            assert "und" in german
    assert seen == {"end", "second", "kein", "number"}


def test_a_side_gives_its_language_again_and_again() -> None:
    for side, language in enumerate(("en", "de")):
        toy = ToySide("valid", language, 4, 20)
        expected = [toy_pair(4, "valid", index)[side] for index in range(20)]
        assert list(toy.lines()) == list(toy.lines()) == expected


@pytest.mark.parametrize("split", SPLITS)
def test_the_target_is_no_copy(split: str) -> None:
    for index in range(200):
        english, german = toy_pair(0, split, index)
        common = set(english.lower()[:-1].split()) & set(german.lower()[:-1].split())
        assert common <= {"warm", "in", "hat", "an"}
