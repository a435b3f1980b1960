"""Word transduction on real English, letter by letter, one token a letter.

    [past] s w i m [sep] s w a m [end]

The words are common English verbs, nouns and adjectives with their inflections (words/NOTICE
says where from). The backbone learns the tasks of PRETRAINING; each task of DOWNSTREAM has a
token that it never saw. Lemmas, not rows, are split into train, validation and test: no lemma
of one split occurs in another, whatever the task.
"""

import csv
import functools
import re
import zlib
from dataclasses import dataclass
from importlib.resources import files

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..errors import unknown
from ..train.data import Examples

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPLITS = {"train": range(0, 80), "valid": range(80, 90), "test": range(90, 100)}


@dataclass(frozen=True)
class Word:
    """A lemma and those of its forms that exist (the others are '')."""

    lemma: str
    third: str = ""
    past: str = ""
    gerund: str = ""
    plural: str = ""
    comparative: str = ""


def pig_latin(w):
    """The consonants before the first vowel go to the end, then 'ay': swim -> imsway.

    >>> pig_latin("swim"), pig_latin("yellow"), pig_latin("rhythm")
    ('imsway', 'ellowyay', 'ythmrhay')
    """
    head = re.match("[^aeiou]?[^aeiouy]*", w).group()
    return w[len(head) :] + head + "ay"


def swap(w):
    """Neighbouring letters change places, a last odd one stays: swim -> wsmi.

    >>> swap("swims")
    'wsmis'
    """
    return "".join(w[i + 1 : i + 2] + w[i] for i in range(0, len(w), 2))


def substitute(w, alphabet):
    """Letter i of the alphabet becomes `alphabet[i]`."""
    return w.translate(str.maketrans(LETTERS, alphabet))


NEXT = LETTERS[1:] + LETTERS[0]  # a -> b, …, z -> a
CIPHER = "kqwxgzmbsyfcjpnrtvehuodlia"  # a permutation drawn once, at random

PRETRAINING = {
    "past": lambda word: word.past,
    "third": lambda word: word.third,
    "plural": lambda word: word.plural,
    "comparative": lambda word: word.comparative,
    "copy": lambda word: word.lemma,
    "reverse": lambda word: word.lemma[::-1],
    "rotate": lambda word: word.lemma[1:] + word.lemma[0],
    "swap": lambda word: swap(word.lemma),
    "next": lambda word: substitute(word.lemma, NEXT),
}
DOWNSTREAM = {
    "gerund": lambda word: word.gerund,  # near: another inflection
    "pig-latin": lambda word: pig_latin(word.lemma),  # a composition of skills
    "cipher": lambda word: substitute(word.lemma, CIPHER),  # far: 26 new facts
    "elicit": lambda word: word.lemma[::-1],  # a new name for a skill already there
}

TASK_TOKENS = [*PRETRAINING, *DOWNSTREAM, *(f"spare{i}" for i in range(1, 7))]
TOKENS = ["[pad]", "[sep]", "[end]", *LETTERS, *(f"[{name}]" for name in TASK_TOKENS)]
IDS = {token: i for i, token in enumerate(TOKENS)}
PAD, SEP, END = range(3)


def encode(task, lemma, target=None):
    """Token ids of `[task] l e m m a [sep]`, followed by `t a r g e t [end]` if given."""
    if f"[{task}]" not in IDS:
        raise ValueError(unknown("task", task, TASK_TOKENS))
    for letter in lemma + (target or ""):
        if letter not in LETTERS:
            raise ValueError(f"{letter!r} in {lemma!r} is no letter a–z; use lower case")
    ids = [IDS[f"[{task}]"], *(IDS[c] for c in lemma), SEP]
    return ids if target is None else [*ids, *(IDS[c] for c in target), END]


def decode(ids):
    """The letters of an answer, up to [end]; other tokens are shown in brackets."""
    ids = list(ids)
    return "".join(TOKENS[i] for i in (ids[: ids.index(END)] if END in ids else ids))


def examples_of(triples):
    """Examples from (task, lemma, target) triples; only the answer and its [end] are learnt."""
    sequences = [(encode(*triple), len(triple[1]) + 2) for triple in triples]
    longest = max((len(ids) for ids, _ in sequences), default=0)
    ids = np.full((len(sequences), max(longest - 1, 0)), PAD)
    labels = np.full(ids.shape, IGNORE)
    for row, (sequence, prompt) in enumerate(sequences):
        ids[row, : len(sequence) - 1] = sequence[:-1]
        labels[row, prompt - 1 : len(sequence) - 1] = sequence[prompt:]
    return Examples(ids, labels)


@functools.cache
def words():
    """All words of the package, sorted by lemma."""
    with (files("minipeft") / "words" / "words.csv").open(encoding="utf-8") as file:
        return tuple(Word(**row) for row in csv.DictReader(file))


def split_of(lemma):
    """The split of a lemma, by a hash of its letters: 80 % train, 10 % valid, 10 % test."""
    place = zlib.crc32(lemma.encode()) % 100
    return next(name for name, places in SPLITS.items() if place in places)


@functools.cache
def words_of(split):
    """The words of a split; an unknown split is a ValueError."""
    if split not in SPLITS:
        raise ValueError(unknown("split", split, SPLITS))
    return tuple(word for word in words() if split_of(word.lemma) == split)


@dataclass(frozen=True)
class Task:
    """A task by name: its rule on words, and its examples in each split."""

    name: str

    def __post_init__(self):
        if self.name not in PRETRAINING | DOWNSTREAM:
            raise ValueError(unknown("task", self.name, [*PRETRAINING, *DOWNSTREAM]))

    def pairs(self, split):
        """(lemma, target) for every word of a split that has the form asked for."""
        rule = (PRETRAINING | DOWNSTREAM)[self.name]
        found = [(word.lemma, rule(word)) for word in words_of(split)]
        return [(lemma, target) for lemma, target in found if target]

    def examples(self, split, limit=None):
        """Examples of a split; with `limit`, of that many lemmas spread over the alphabet."""
        pairs = self.pairs(split)
        if limit is not None and limit < len(pairs):
            pairs = [pairs[i * len(pairs) // limit] for i in range(limit)]
        return examples_of([(self.name, *pair) for pair in pairs])

    @property
    def train(self):
        """All examples to train on."""
        return self.examples("train")


def mixture():
    """Examples of all pretraining tasks, the small ones repeated so that all weigh the same."""
    tasks = {name: Task(name).pairs("train") for name in PRETRAINING}
    most = max(map(len, tasks.values()))
    triples = []
    for name, pairs in tasks.items():
        triples += [(name, *pairs[i % len(pairs)]) for i in range(most)]
    return examples_of(triples)
