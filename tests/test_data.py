"""The words, their splits, the tasks and how they become tokens."""

import json
import re
from importlib.resources import files
from math import prod

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np
from minipeft.engine.functional import IGNORE
from minipeft.lab.pretrain import BACKBONE, shipped_metrics
from minipeft.text.words import (
    CIPHER,
    DOWNSTREAM,
    END,
    IDS,
    LETTERS,
    NEXT,
    PAD,
    PRETRAINING,
    SEP,
    SPLITS,
    TASK_TOKENS,
    TOKENS,
    Task,
    Word,
    decode,
    encode,
    examples_of,
    mixture,
    pig_latin,
    split_of,
    substitute,
    swap,
    words,
    words_of,
)
from minipeft.train.data import Examples

PACKAGE = files("minipeft")
TASKS = PRETRAINING | DOWNSTREAM
spellings = st.text(alphabet=LETTERS, min_size=1, max_size=20)
every_task = pytest.mark.parametrize("name", TASKS)


def answer(task, word):
    """What a task makes of a word without listed inflections."""
    return TASKS[task](Word(word))


# Words and splits


def test_the_word_list_is_small_and_clean():
    path = PACKAGE / "words" / "words.csv"
    content = path.read_bytes()
    assert len(content) <= 300_000
    header, *lines = content.decode("ascii").splitlines()
    assert header == "lemma,third,past,gerund,plural,comparative"
    assert all(re.fullmatch("[a-z]+(,[a-z]*){5}", line) for line in lines)
    lemmas = [word.lemma for word in words()]
    assert lemmas == sorted(set(lemmas)) and len(lemmas) == len(lines) > 5_000
    assert "MIT" in (PACKAGE / "words" / "NOTICE").read_text(encoding="utf-8")


def test_the_words_are_english():
    by_lemma = {word.lemma: word for word in words()}
    swim = by_lemma["swim"]
    assert (swim.third, swim.past, swim.gerund) == ("swims", "swam", "swimming")
    assert by_lemma["child"].plural == "children"
    assert by_lemma["happy"].comparative == "happier"


def test_splits_are_disjoint_and_cover_all_words():
    parts = {split: {word.lemma for word in words_of(split)} for split in SPLITS}
    assert sum(map(len, parts.values())) == len(words())
    assert set().union(*parts.values()) == {word.lemma for word in words()}
    assert sorted(place for places in SPLITS.values() for place in places) == list(range(100))
    for split, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert len(parts[split]) / len(words()) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    "split, lemmas",
    [("train", "swim child happy write"), ("valid", "come find love"), ("test", "walk table")],
)
def test_the_split_of_a_word_never_changes(split, lemmas):
    assert {split_of(lemma) for lemma in lemmas.split()} == {split}


@every_task
def test_no_lemma_of_one_split_is_asked_in_another(name):
    pairs = {split: Task(name).pairs(split) for split in SPLITS}
    for split, found in pairs.items():
        assert found and {split_of(lemma) for lemma, _ in found} == {split}
        assert all(target for _, target in found)
        assert found == [(w.lemma, TASKS[name](w)) for w in words_of(split) if TASKS[name](w)]


def test_the_backbone_is_taught_words_for_training_only():
    rows = mixture().ids.tolist()
    lemmas = {tuple(row[1 : row.index(SEP)]) for row in rows}
    assert {decode(lemma) for lemma in lemmas} == {word.lemma for word in words_of("train")}


# The rules of the tasks


@pytest.mark.parametrize(
    "task, word, expected",
    [
        ("copy", "swim", "swim"),
        ("reverse", "swim", "miws"),
        ("rotate", "swim", "wims"),
        ("swap", "swims", "wsmis"),
        ("next", "swizz", "txjaa"),
        ("pig-latin", "swim", "imsway"),
        ("pig-latin", "apple", "appleay"),
        ("pig-latin", "yellow", "ellowyay"),
        ("pig-latin", "rhythm", "ythmrhay"),
        ("pig-latin", "string", "ingstray"),
        ("cipher", "abc", "kqw"),
        ("elicit", "swim", "miws"),
        ("gerund", "swim", ""),  # unknown: no example of it
    ],
)
def test_examples_of_the_rules(task, word, expected):
    assert answer(task, word) == expected


@given(spellings)
def test_laws_of_the_rules(w):
    assert answer("copy", w) == w
    assert (
        answer("reverse", answer("reverse", w)) == w == answer("elicit", answer("reverse", w))
    )
    assert swap(swap(w)) == w
    turned = w
    for _ in w:
        turned = answer("rotate", turned)
    assert turned == w
    for alphabet in (NEXT, CIPHER):
        back = "".join(LETTERS[alphabet.index(c)] for c in LETTERS)
        assert substitute(substitute(w, alphabet), back) == w
    after_26 = w
    for _ in LETTERS:
        after_26 = substitute(after_26, NEXT)
    assert after_26 == w


@given(spellings)
def test_pig_latin_moves_what_stands_before_the_first_vowel(w):
    vowels = [i for i, c in enumerate(w) if c in "aeiou" or (c == "y" and i > 0)]
    first = vowels[0] if vowels else len(w)
    assert pig_latin(w) == w[first:] + w[:first] + "ay"


def test_the_alphabets_are_permutations():
    for alphabet in (NEXT, CIPHER):
        assert sorted(alphabet) == list(LETTERS)
        assert sum(a == b for a, b in zip(alphabet, LETTERS, strict=True)) <= 1
    assert sum(CIPHER[i] == NEXT[i] for i in range(26)) <= 3  # nothing to carry over


# Tokens


def test_the_vocabulary_is_that_of_the_shipped_backbone():
    shipped = json.loads((PACKAGE / "base" / "vocabulary.json").read_text(encoding="utf-8"))
    assert shipped == {"tokens": TOKENS}
    assert len(set(TOKENS)) == len(TOKENS) == mp.load_base().config.vocab == BACKBONE.vocab
    assert [TOKENS[i] for i in (PAD, SEP, END)] == ["[pad]", "[sep]", "[end]"]
    assert all(TOKENS[i] == token for token, i in IDS.items())
    assert TASK_TOKENS[: len(TASKS)] == [*PRETRAINING, *DOWNSTREAM]
    assert not set(PRETRAINING) & set(DOWNSTREAM)


@given(st.sampled_from(TASK_TOKENS), spellings, spellings)
def test_a_sequence_is_task_letters_sep_letters_end(task, lemma, target):
    ids = encode(task, lemma, target)
    shown = "".join(TOKENS[i] for i in ids)
    assert shown == f"[{task}]{lemma}[sep]{target}[end]"
    prompt = encode(task, lemma)
    assert ids[: len(prompt)] == prompt
    answer = ids[len(prompt) :]
    assert decode(answer) == decode(answer[:-1]) == decode([*answer, PAD, 5]) == target
    assert decode(ids) == f"[{task}]{lemma}[sep]{target}"
    assert decode(np.array(answer)) == target


@given(st.lists(st.tuples(st.sampled_from(TASK_TOKENS), spellings, spellings), min_size=1))
def test_only_answers_are_learnt(triples):
    data = examples_of(triples)
    assert len(data) == len(triples)
    for (task, lemma, target), ids, labels in zip(triples, data.ids, data.labels, strict=True):
        sequence = encode(task, lemma, target)
        n, asked = len(sequence) - 1, labels != IGNORE
        assert ids[:n].tolist() == sequence[:-1] and (ids[n:] == PAD).all()
        assert labels[asked].tolist() == sequence[len(lemma) + 2 :]
        assert np.flatnonzero(asked).tolist() == list(range(len(lemma) + 1, n))
        assert ids[asked][0] == SEP  # the first letter is asked at [sep]


@given(st.data())
def test_some_rows_lose_the_columns_in_which_nothing_is_asked_at_the_end(data):
    everything = Task("past").examples("test", 40)
    rows = np.array(data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=5)))
    ids, labels = everything.take(rows)
    end = ids.shape[1]
    assert (ids == everything.ids[rows, :end]).all()
    assert (labels == everything.labels[rows, :end]).all()
    assert (labels[:, -1] != IGNORE).any()
    assert (everything.labels[rows, end:] == IGNORE).all()


@every_task
def test_every_sequence_fits_the_context(name):
    longest = max(
        len(encode(name, *pair)) for split in SPLITS for pair in Task(name).pairs(split)
    )
    assert longest <= BACKBONE.context == 64


def test_the_mixture_is_balanced():
    tokens, counts = np.unique(mixture().ids[:, 0], return_counts=True)
    assert {TOKENS[i] for i in tokens} == {f"[{name}]" for name in PRETRAINING}
    assert len(set(counts)) == 1
    rows = set(map(tuple, mixture().ids.tolist()))
    assert len(rows) == sum(len(Task(name).pairs("train")) for name in PRETRAINING)


@every_task
def test_a_limit_spreads_over_the_alphabet(name):
    task, limit = Task(name), 20
    some, everything = task.examples("test", limit), task.examples("test")
    assert len(some) == limit
    firsts = [TOKENS[i] for i in some.ids[:, 1]]
    assert firsts == sorted(firsts) and len(set(firsts)) >= 8
    whole = {tuple(row[row != PAD]) for row in everything.ids}
    assert {tuple(row[row != PAD]) for row in some.ids} <= whole
    assert len(task.examples("test", 10**6)) == len(everything)
    assert len(task.train) == len(task.pairs("train"))


# The backbone in the package


def test_the_shipped_backbone_is_small_and_says_how_it_was_made():
    path = PACKAGE / "base" / "model.safetensors"
    assert len(path.read_bytes()) <= 1_500_000
    with safetensors.safe_open(path, framework="numpy") as file:
        numbers = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())
    assert numbers == BACKBONE.size <= 500_000
    metrics = shipped_metrics()
    assert metrics["parameters"] == numbers and metrics["settings"]["seed"] == 0
    assert metrics["command"].startswith("minipeft pretrain --seed 0")
    assert mp.load_base().config == BACKBONE


def test_the_shipped_backbone_knows_the_old_tasks_and_not_the_new():
    net, scores = mp.load_base(), shipped_metrics()["test"]
    assert scores.keys() == TASKS.keys()
    assert np.mean([scores[name]["exact"] >= 0.95 for name in PRETRAINING]) > 0.5
    assert all(scores[name]["exact"] < 0.02 for name in DOWNSTREAM)
    for name in ("past", "reverse", "pig-latin"):
        found = mp.evaluate(net, Task(name).examples("test"))
        assert found.exact == pytest.approx(scores[name]["exact"], abs=0.002)
        assert found.loss == pytest.approx(scores[name]["loss"], rel=1e-3)


# Bad input


def test_unknown_names_are_refused_with_near_matches():
    with pytest.raises(ValueError, match="unknown task 'pig_latin'; did you mean 'pig-latin'"):
        Task("pig_latin")
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        Task("past").pairs("tset")
    with pytest.raises(ValueError, match="unknown task 'gerunds'; did you mean 'gerund'"):
        encode("gerunds", "swim")


@pytest.mark.parametrize("word", ["Swim", "naïve", "ice cream", "x-ray", "1st", "é"])
def test_what_is_no_letter_is_refused(word):
    bad = next(c for c in word if c not in LETTERS)
    for arguments in ((word,), ("swim", word)):
        with pytest.raises(ValueError, match=f"'{bad}' in .* is no letter a–z; use lower case"):
            encode("past", *arguments)


@pytest.mark.parametrize(
    "ids, labels",
    [
        ([[1, 2]], [[1]]),
        ([1, 2], [1, 2]),
        ([], []),
        ([[]], [[]]),
        (np.zeros((0, 3)), np.zeros((0, 3))),
    ],
)
def test_examples_are_two_tables_of_one_shape(ids, labels):
    with pytest.raises(ValueError, match=r"examples need ids and labels of one shape \(N, T\)"):
        Examples(ids, labels)
    with pytest.raises(ValueError, match="examples need"):
        examples_of([])
