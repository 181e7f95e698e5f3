"""An endless corpus of small documents, for trying things out without a download.

Each document is about one topic, and topics share hardly a word: a masked word can be told from the
others, and whether a sentence follows from the topics of both. One document in six that does not
follow has the same topic, so that nobody tells them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

Item = TypeVar("Item")
Topic = tuple[tuple[str, ...], ...]

HELD_OUT = 200
"""Documents of the validation split."""

_SPLITS = ("train", "valid")

# Beings, things, verbs and places of each topic.
_TOPICS: tuple[Topic, ...] = tuple(
    tuple(tuple(part.split()) for part in text.split("/"))
    for text in (
        "cook baker guest waiter/soup bread cake salt pan/eats bakes tastes/kitchen cellar",
        "sailor captain pirate fisher/rope anchor net map sail/pulls drops mends/harbour deck",
        "farmer shepherd miller groom/hay cow plough barn fence/feeds drives builds/field yard",
        "pupil teacher writer clerk/book letter pencil page desk/reads writes opens/school hall",
        "singer drummer dancer piper/song drum flute stage bell/plays hears rings/theatre tent",
        "doctor nurse patient chemist/pill coat glass bandage needle/takes washes brings/ward room",
    )
)


def toy_document(seed: int, split: str, index: int) -> list[str]:
    """Return the sentences of one document.

    Args:
        seed: Seed of the corpus, >= 0.
        split: ``train`` or ``valid``.
        index: Number of the document, from 0, without end.

    Returns:
        4 to 9 sentences of 5 to 11 words each.
    """
    # One number for (seed, split, index): Python's generator gives the same draws in all releases.
    random = Random((seed << 40 | index) << 1 | _SPLITS.index(split))
    topic = _pick(random, _TOPICS)
    return [_sentence(random, topic) for _ in range(4 + int(random.random() * 6))]


class ToyDocuments:
    """The lines of one split, documents separated by blank lines.

    Args:
        split: ``train`` or ``valid``.
        seed: Seed of the corpus.
        size: Number of documents.
    """

    def __init__(self, split: str, seed: int, size: int) -> None:
        self._split, self._seed, self._size = split, seed, size

    @property
    def title(self) -> str:
        """The name for messages."""
        return f"toy_documents ({self._split})"

    def lines(self) -> Iterator[str]:
        """Return the sentences in order, and a blank line after each document."""
        for index in range(self._size):
            yield from toy_document(self._seed, self._split, index)
            yield ""

    def key(self) -> None:
        """Return None: the sentences are made anew rather than stored."""


def _pick(random: Random, items: Sequence[Item]) -> Item:
    return items[int(random.random() * len(items))]


def _sentence(random: Random, topic: Topic) -> str:
    beings, things, verbs, places = topic
    text = f"the {_pick(random, beings)} {_pick(random, verbs)} the {_pick(random, things)}"
    shape = random.random()
    if shape < 0.4:
        text += f" in the {_pick(random, places)}"
    elif shape < 0.6:
        text += f" and the {_pick(random, beings)} {_pick(random, verbs)} the"
        text += f" {_pick(random, things)}"
    return f"{text}."
