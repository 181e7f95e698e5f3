"""An endless English-German corpus from a small grammar, for trying things out without a download.

The German is declined and ordered as German is: three genders, nominative and accusative, adjective
endings after "der", "ein" and numbers, "kein" for "not a", the verb in second place after an
adverb and at the end of a subordinate clause, separable verbs, "sein" or "haben", compounds in one
word, and numbers with the unit first. Each English sentence has one German one, and the reverse.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TypeVar

from mindspore_thor.data.text import toy_words as words
from mindspore_thor.data.text.toy_words import Noun, Verb
from mindspore_thor.errors import UserError

LANGUAGES = ("en", "de")
HELD_OUT = 500
"""Sentences of the validation split, and of the test split."""

_SPLITS = {"train": range(2, 16), "valid": range(0, 1), "test": range(1, 2)}
_MOST_WORDS = 12

Item = TypeVar("Item")


def toy_pair(seed: int, split: str, index: int) -> tuple[str, str]:
    """Return one sentence pair.

    Args:
        seed: Seed of the corpus, >= 0.
        split: ``train``, ``valid`` or ``test``. The English sentence alone decides which split a
            pair may be in, so that no sentence of one split occurs in another one, with any seed.
        index: Number of the pair, from 0, without end.

    Returns:
        English and German, 2 to 12 words each, with a capital letter and a full stop.
    """
    # One number for (seed, split, index): Python's generator gives the same draws in all releases.
    random = Random((seed << 40 | index) << 2 | tuple(_SPLITS).index(split))
    while True:
        english, german = _sentence(random)
        if zlib.crc32(english.encode()) % 16 not in _SPLITS[split]:
            continue
        if max(len(english.split()), len(german.split())) <= _MOST_WORDS:
            return english, german


class ToySide:
    """One language of one split of the toy corpus.

    Args:
        split: ``train``, ``valid`` or ``test``.
        language: ``en`` or ``de``.
        seed: Seed of the corpus.
        size: Number of sentences.

    Raises:
        UserError: The corpus does not have the language.
    """

    def __init__(self, split: str, language: str, seed: int, size: int) -> None:
        if language not in LANGUAGES:
            raise UserError(
                f"'toy_translation' has no language '{language}': found de, en; correct "
                "source_language or target_language"
            )
        self._split = split
        self._language = LANGUAGES.index(language)
        self._seed = seed
        self._size = size

    @property
    def title(self) -> str:
        """The name for messages."""
        return f"toy_translation ({self._split}, {LANGUAGES[self._language]})"

    def lines(self) -> Iterator[str]:
        """Return the sentences in order."""
        for index in range(self._size):
            yield _known_pair(self._seed, self._split, index)[self._language]

    def key(self) -> None:
        """Return None: the sentences are made anew rather than stored."""


# Source, target, the vocabulary's training: each reads the same pairs.
_known_pair = lru_cache(maxsize=1 << 15)(toy_pair)


def _pick(random: Random, items: Sequence[Item]) -> Item:
    return items[int(random.random() * len(items))]


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase; German in the nominative and the accusative."""

    english: str
    nominative: str
    accusative: str
    plural: bool
    kind: str  # of its first word: the, a, my, number, pronoun


_PRONOUNS = (
    _Phrase("he", "er", "ihn", False, "pronoun"),
    _Phrase("she", "sie", "sie", False, "pronoun"),
    _Phrase("they", "sie", "sie", True, "pronoun"),
)


def _sentence(random: Random) -> tuple[str, str]:
    shape = random.random()
    if shape < 0.25:
        opening, german_opening = _pick(random, words.OPENINGS)
        english, german = _clause(random, subordinate=True)
        return _written(f"{opening} {english}"), _written(f"{german_opening} {german}")
    if shape < 0.5:
        time, german_time = _pick(random, words.TIMES)
        english, german = _clause(random, before=german_time)
        return _written(f"{time} {english}"), _written(german)
    english, german = _clause(random)
    return _written(english), _written(german)


def _written(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _clause(random: Random, *, subordinate: bool = False, before: str = "") -> tuple[str, str]:
    """Return a clause; ``before`` is what takes the German first place instead of the subject."""
    verb: Verb
    if random.random() < 0.2:
        subject = _pick(random, _PRONOUNS)
    else:
        subject = _noun_phrase(random, _pick(random, words.BEINGS))
    target = None
    if random.random() < 0.75:
        verb = _pick(random, words.TRANSITIVE)
        target = _noun_phrase(random, _thing(random))
    else:
        verb = _pick(random, words.INTRANSITIVE)
    place = _pick(random, words.PLACES) if random.random() < 0.3 else ("", "")
    tense = random.random()
    negated = random.random() < 0.2 and (target is None or target.kind != "number")

    prefix = verb.prefix
    if tense < 0.5:
        finite = verb.german_plural if subject.plural else verb.german_third
        end = ""
        if negated:
            english = f"{'do' if subject.plural else 'does'} not {verb.english}"
        else:
            english = verb.english if subject.plural else verb.english_third
    elif tense < 0.75:
        auxiliary = ("sind", "ist") if verb.with_sein else ("haben", "hat")
        finite = auxiliary[0 if subject.plural else 1]
        end, prefix = verb.german_participle, ""
        english = "have" if subject.plural else "has"
        english = f"{english} {'not ' if negated else ''}{verb.english_participle}"
    else:
        modal, singular, plural = _pick(random, words.MODALS)
        finite = plural if subject.plural else singular
        end, prefix, negated = verb.german_infinitive, "", False
        english = f"{modal} {verb.english}"

    middle = "" if target is None else target.accusative
    if negated:
        # "nicht einen" is "keinen".
        middle = f"k{middle}" if target and target.kind == "a" else f"{middle} nicht"
    if subordinate:
        german = [subject.nominative, middle, place[1], end, f"{prefix}{finite}"]
    elif before:
        german = [before, finite, subject.nominative, middle, place[1], prefix, end]
    else:
        german = [subject.nominative, finite, middle, place[1], prefix, end]
    original = [subject.english, english, "" if target is None else target.english, place[0]]
    return " ".join(" ".join(original).split()), " ".join(" ".join(german).split())


def _thing(random: Random) -> Noun:
    kind = random.random()
    if kind < 0.3:
        return _pick(random, words.BEINGS)
    if kind < 0.75:
        return _pick(random, words.THINGS)
    parts, heads = _pick(random, words.COMPOUND_PARTS)
    english, german = _pick(random, parts)
    head = _pick(random, heads)
    return Noun(
        f"{english} {head.english}",
        f"{english} {head.english_plural}",
        german + head.german.lower(),
        german + head.german_plural.lower(),
        head.gender,
    )


# Endings after m, f, n, plural. "the" takes weak adjectives, "ein" and "mein" mixed ones, a number
# strong ones; the accusative differs in the masculine only.
_DEFINITE = {"m": "der", "f": "die", "n": "das", "p": "die"}
_EIN = {"m": "", "f": "e", "n": "", "p": "e"}
_WEAK = {"m": "e", "f": "e", "n": "e", "p": "en"}
_MIXED = {"m": "er", "f": "e", "n": "es", "p": "en"}


def _noun_phrase(random: Random, noun: Noun) -> _Phrase:
    kind = _pick(random, ("the", "the", "a", "a", "my", "number"))
    plural = kind == "number" or (kind != "a" and random.random() < 0.4)
    form = "p" if plural else noun.gender
    if random.random() < 0.4:
        adjective, stem = _pick(random, words.ADJECTIVES)
    else:
        adjective = stem = ""

    english_word = kind
    if kind == "the":
        nominative, accusative = _DEFINITE[form], "den" if form == "m" else _DEFINITE[form]
    elif kind == "number":
        english_word, nominative = _number(random)
        accusative = nominative
    else:
        if kind == "my":
            english_word, base = _pick(random, (("my", "mein"), ("his", "sein")))
        else:
            base = "ein"
            english_word = "an" if (adjective or noun.english)[0] in "aeiou" else "a"
        nominative = base + _EIN[form]
        accusative = base + ("en" if form == "m" else _EIN[form])

    english_noun = noun.english_plural if plural else noun.english
    german_noun = noun.german_plural if plural else noun.german
    cases = []
    for case, article in (("nominative", nominative), ("accusative", accusative)):
        declined = ""
        if stem:
            endings = {"the": _WEAK, "number": {"p": "e"}}.get(kind, _MIXED)
            masculine = case == "accusative" and form == "m"
            declined = f"{stem}{'en' if masculine else endings[form]} "
        cases.append(f"{article} {declined}{german_noun}")
    english = f"{english_word} {adjective} {english_noun}".replace("  ", " ")
    return _Phrase(english, cases[0], cases[1], plural, kind)


def _number(random: Random) -> tuple[str, str]:
    """Return a number from 2 to 69 in words; the German unit goes before the ten."""
    unit, german_unit = _pick(random, words.UNITS)
    if random.random() < 0.6:
        return unit, german_unit
    ten, german_ten = _pick(random, words.TENS)
    if random.random() < 0.3:
        return ten, german_ten
    return f"{ten}-{unit}", f"{german_unit}und{german_ten}"
