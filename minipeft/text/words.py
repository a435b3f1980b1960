"""Word tasks: an English word is rewritten letter by letter, one token per letter.

    [past] s w i m [sep] s w a m [end]      the prompt ends with [sep], the answer with [end]

The words are common English verbs, nouns and adjectives with their inflections (words/NOTICE
has the source). The backbone is pretrained on the tasks of PRETRAINING. Each task of DOWNSTREAM
has a task token that pretraining never showed it.

The split into training, validation and test set is by lemma, the dictionary form of a word: a
lemma is in one split only, whatever the task.
"""

import csv
import functools
import re
import zlib
from dataclasses import dataclass
from importlib.resources import files

from ..engine.backend import np
from ..engine.functional import IGNORE
from ..errors import check_whole, unknown
from ..train.data import Examples

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPLITS = {"train": range(0, 80), "valid": range(80, 90), "test": range(90, 100)}


@dataclass(frozen=True)
class Word:
    """A lemma and its inflected forms; '' where it has no such form."""

    lemma: str
    third: str = ""
    past: str = ""
    gerund: str = ""
    plural: str = ""
    comparative: str = ""


def pig_latin(w):
    """Returns w with the consonants before its first vowel at the end, then 'ay'.

    >>> pig_latin("swim"), pig_latin("yellow"), pig_latin("rhythm")
    ('imsway', 'ellowyay', 'ythmrhay')
    """
    head = re.match("[^aeiou]?[^aeiouy]*", w).group()
    return w[len(head) :] + head + "ay"


def swap(w):
    """Returns w with neighbouring letters swapped; the last of an odd number stays.

    >>> swap("swims")
    'wsmis'
    """
    return "".join(w[i + 1 : i + 2] + w[i] for i in range(0, len(w), 2))


def substitute(w, alphabet):
    """Returns w with every a replaced by alphabet[0], every b by alphabet[1], and so on."""
    return w.translate(str.maketrans(LETTERS, alphabet))


NEXT = LETTERS[1:] + LETTERS[0]  # a -> b, …, z -> a
CIPHER = "kqwxgzmbsyfcjpnrtvehuodlia"  # a random permutation, drawn once

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
    "gerund": lambda word: word.gerund,  # close to pretraining: one more inflection
    "pig-latin": lambda word: pig_latin(word.lemma),  # a composition of pretrained skills
    "cipher": lambda word: substitute(word.lemma, CIPHER),  # far from it: 26 new facts
    "elicit": lambda word: word.lemma[::-1],  # a pretrained skill, `reverse`, by a new name
}

TASK_TOKENS = [*PRETRAINING, *DOWNSTREAM, *(f"spare{i}" for i in range(1, 7))]
TOKENS = ["[pad]", "[sep]", "[end]", *LETTERS, *(f"[{name}]" for name in TASK_TOKENS)]
IDS = {token: i for i, token in enumerate(TOKENS)}
PAD, SEP, END = range(3)


def encode(task, lemma, target=None):
    """Returns the token ids of `[task] l e m m a [sep]`, then `t a r g e t [end]` if given.

    Raises ValueError for an unknown task, or a letter that is not one of a–z.
    """
    if f"[{task}]" not in IDS:
        raise ValueError(unknown("task", task, TASK_TOKENS))
    for letter in lemma + (target or ""):
        if letter not in LETTERS:
            raise ValueError(f"{letter!r} in {lemma!r} is no letter a–z; use lower case")
    ids = [IDS[f"[{task}]"], *(IDS[c] for c in lemma), SEP]
    return ids if target is None else [*ids, *(IDS[c] for c in target), END]


def decode(ids):
    """Returns the text of an answer up to [end]; special tokens stay in brackets."""
    ids = list(ids)
    return "".join(TOKENS[i] for i in (ids[: ids.index(END)] if END in ids else ids))


def examples_of(triples):
    """Returns Examples from (task, lemma, target) triples, padded to one length.

    Only the letters of the target and its [end] have labels; all else is IGNORE.
    """
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
    """Returns all words of the package, sorted by lemma."""
    with (files("minipeft") / "words" / "words.csv").open(encoding="utf-8") as file:
        return tuple(Word(**row) for row in csv.DictReader(file))


def split_of(lemma):
    """Returns the split of a lemma, by a hash of it: 80 % train, 10 % valid, 10 % test."""
    percentile = zlib.crc32(lemma.encode()) % 100
    return next(name for name, percentiles in SPLITS.items() if percentile in percentiles)


@functools.cache
def words_of(split):
    """Returns the words of a split; raises ValueError for an unknown one."""
    if split not in SPLITS:
        raise ValueError(unknown("split", split, SPLITS))
    return tuple(word for word in words() if split_of(word.lemma) == split)


@dataclass(frozen=True)
class Task:
    """A task by name: its rule for words, and its examples in each split.

    Raises ValueError for an unknown name.
    """

    name: str

    def __post_init__(self):
        if self.name not in PRETRAINING | DOWNSTREAM:
            raise ValueError(unknown("task", self.name, [*PRETRAINING, *DOWNSTREAM]))

    def pairs(self, split):
        """Returns (lemma, target) for every word of a split that has the form of the task."""
        rule = (PRETRAINING | DOWNSTREAM)[self.name]
        pairs = [(word.lemma, rule(word)) for word in words_of(split)]
        return [(lemma, target) for lemma, target in pairs if target]

    def examples(self, split, limit=None):
        """Returns the Examples of a split: "train", "valid" or "test".

        With `limit`, so many of them, at least 1, spread evenly over the alphabet.
        """
        pairs = self.pairs(split)
        if limit is not None:
            (limit,) = check_whole(1, limit=limit)
        if limit is not None and limit < len(pairs):
            pairs = [pairs[i * len(pairs) // limit] for i in range(limit)]
        return examples_of([(self.name, *pair) for pair in pairs])

    @property
    def train(self):
        """The Examples of the training split."""
        return self.examples("train")


def mixture():
    """Returns Examples of all pretraining tasks, equally many of each: small tasks repeat."""
    tasks = {name: Task(name).pairs("train") for name in PRETRAINING}
    most = max(map(len, tasks.values()))
    triples = []
    for name, pairs in tasks.items():
        triples += [(name, *pairs[i % len(pairs)]) for i in range(most)]
    return examples_of(triples)
