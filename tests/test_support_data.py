"""The support conversations of lessons/data keep the rules of lessons/data/support.md.

A right answer to a held-out question must show that the fact was learnt: its keywords stand in
no other answer and in no question, and no training question is nearly the same.
"""

import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "lessons" / "data"
NAMES = ["support.jsonl", "support_heldout.jsonl", "support.md"]
FACTS, PHRASINGS, HELD_OUT = 36, 5, 48  # at least
OVERLAP = 0.5  # Jaccard index of two questions' words, at most


def read(name):
    """The lines of a JSONL file of the folder."""
    return [json.loads(line) for line in (FOLDER / name).read_text("ascii").splitlines()]


def turns(line):
    """[(question, answer), …] of a conversation; its roles alternate and the answer is last."""
    roles = [message["role"] for message in line["messages"]]
    texts = [message["content"] for message in line["messages"]]
    assert roles and roles == ["user", "assistant"] * (len(roles) // 2), line
    return list(zip(texts[::2], texts[1::2], strict=True))


def labelled(train, held_out):
    """(fact, question, answer) of each training turn, and of each held-out line."""
    first = [
        (fact, *turn)
        for line in train
        for fact, turn in zip(line["facts"], turns(line), strict=True)
    ]
    second = [(line["fact"], *turn) for line in held_out for turn in turns(line)]
    return first, second


def keywords_of(held_out):
    """{fact: its keywords}, which all held-out lines of the fact give alike."""
    keywords = {}
    for line in held_out:
        assert keywords.setdefault(line["fact"], line["keywords"]) == line["keywords"], line
    return keywords


def overlap(first, second):
    """The Jaccard index of two questions: the words of both over the words of either."""
    first, second = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(first & second) / len(first | second)


def check(train, held_out):
    """Raises AssertionError unless the conversations keep every rule."""
    for line in train + held_out:
        turns(line)
    first, second = labelled(train, held_out)
    keywords = keywords_of(held_out)
    check_counts(train, first, second, keywords)
    check_keywords(first + second, keywords)
    check_questions(first, second)
    for _, question, answer in first + second:
        assert 0 < len(question.split()) <= 25 and 0 < len(answer.split()) <= 30, question


def check_counts(train, first, second, keywords):
    """Enough facts, phrasings of each, conversations of several turns, held-out questions."""
    single = Counter(line["facts"][0] for line in train if len(line["facts"]) == 1)
    assert len(keywords) >= FACTS and all(keywords.values())
    assert {fact for fact, *_ in first} == set(single) == set(keywords)
    assert min(single.values()) >= PHRASINGS, single.most_common()[-1]
    assert sum(len(line["facts"]) > 1 for line in train) >= 8
    assert len(second) >= HELD_OUT


def check_keywords(labelled, keywords):
    """An answer has its fact's keywords and nobody else's; a question gives none away."""
    for (fact, mine), (other, theirs) in combinations(keywords.items(), 2):
        for one in mine:
            for two in theirs:
                assert one.lower() not in two.lower(), (fact, other)
                assert two.lower() not in one.lower(), (fact, other)
    for fact, question, answer in labelled:
        question, answer = question.lower(), answer.lower()
        for name, words in keywords.items():
            for word in words:
                assert word.lower() not in question, question
                assert (word.lower() in answer) == (name == fact), answer


def check_questions(first, second):
    """Any two questions of a fact, of training or held out, are worded differently."""
    questions = [question.lower() for _, question, _ in first + second]
    assert len(set(questions)) == len(questions)
    of_fact = defaultdict(list)
    for fact, question, _ in first + second:
        of_fact[fact].append(question)
    for asked in of_fact.values():
        for one, two in combinations(asked, 2):
            assert overlap(one, two) <= OVERLAP, (one, two)


def test_the_conversations_keep_the_rules():
    check(read("support.jsonl"), read("support_heldout.jsonl"))


def test_the_files_are_small_and_plain():
    """ASCII, at most 100 kB together; the note's table names every fact and its keywords."""
    files = [(FOLDER / name).read_bytes() for name in NAMES]
    assert sum(map(len, files)) <= 100_000 and all(text.isascii() for text in files)
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", files[-1].decode(), re.MULTILINE)
    table = {fact: re.findall(r"`(.+?)`", words) for fact, words in rows}
    assert table == keywords_of(read("support_heldout.jsonl"))


def drop_phrasing(train, held_out):
    del train[0]


def drop_keyword(train, held_out):
    message = train[0]["messages"][1]
    message["content"] = message["content"].replace("47", "some")


def share_keyword(train, held_out):
    train[0]["messages"][1]["content"] += " The Pipit too."


def give_away(train, held_out):
    held_out[0]["messages"][0]["content"] += " 47 days?"


def copy_question(train, held_out):
    held_out[0]["messages"][0]["content"] = train[0]["messages"][0]["content"].upper()


def nearly_copy_question(train, held_out):
    held_out[0]["messages"][0]["content"] = "Now, " + train[0]["messages"][0]["content"]


def end_with_user(train, held_out):
    del train[-1]["messages"][-1]


def add_system(train, held_out):
    train[0]["messages"].insert(0, {"role": "system", "content": "Be friendly."})


def forget_fact(train, held_out):
    held_out[:] = [line for line in held_out if line["fact"] != "dog"]


def ramble(train, held_out):
    train[0]["messages"][1]["content"] += " Truly." * 30


BREAKS = [
    drop_phrasing,
    drop_keyword,
    share_keyword,
    give_away,
    copy_question,
    nearly_copy_question,
    end_with_user,
    add_system,
    forget_fact,
    ramble,
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_a_broken_rule_is_seen(broken):
    train, held_out = read("support.jsonl"), read("support_heldout.jsonl")
    broken(train, held_out)
    with pytest.raises(AssertionError):
        check(train, held_out)
