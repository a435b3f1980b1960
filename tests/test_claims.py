"""What a paper says that a method buys, held against rows of a comparison."""

import pytest

import minipeft as mp
from minipeft.lab import claims


def rows(name, exact, **others):
    """Rows of a method on one task at two budgets; exact: the exact match at each."""
    usual = {"trainable": 100, "tape_bytes": 100, "old": 0.5, "task": "gerund", "method": name}
    return [
        usual | {"steps": steps, "exact": x} | others
        for steps, x in zip((300, 1200), exact, strict=True)
    ]


def claimed(kind, ours, theirs):
    """The text and the verdict on a claim about "vera" against "lora"."""

    class Claimed:
        name, claim = "vera", (kind, "lora")

    return claims.measured(Claimed, rows("vera", **ours) + rows("lora", **theirs))


LORA = {"exact": (0.5, 0.9)}


@pytest.mark.parametrize(
    ("kind", "ours", "right"),
    [
        ("quality", {"exact": (0.6, 0.9)}, "yes"),
        ("quality", {"exact": (0.5, 0.96)}, "yes"),
        ("quality", {"exact": (0.53, 0.93)}, "no difference"),
        ("quality", {"exact": (0.4, 0.99)}, "no"),
        ("learning", {"exact": (0.6, 0.2)}, "yes"),
        ("learning", {"exact": (0.4, 0.99)}, "no"),
        ("parameters", {"exact": (0.1, 0.86), "trainable": 9}, "yes"),
        ("parameters", {"exact": (0.1, 0.84), "trainable": 9}, "no"),
        ("parameters", {"exact": (0.5, 0.9), "trainable": 100}, "no"),
        ("memory", {"exact": (0.1, 0.9), "tape_bytes": 50}, "yes"),
        ("memory", {"exact": (0.1, 0.9), "tape_bytes": 101}, "no"),
        ("remembers", {"exact": (0.1, 0.9), "old": 0.6}, "yes"),
        ("remembers", {"exact": (0.1, 0.9), "old": 0.52}, "no"),
        ("remembers", {"exact": (0.1, 0.5), "old": 0.9}, "no"),
        ("equal", {"exact": (0.1, 0.86)}, "yes"),
        ("equal", {"exact": (0.1, 0.84)}, "no"),
    ],
)
def test_the_verdict(kind, ours, right):
    assert claimed(kind, ours, LORA)[1] == right


def test_the_numbers_behind_it():
    text, _ = claimed("parameters", {"exact": (0.1, 0.86), "trainable": 9}, LORA)
    assert text == "0.10 / 0.86 against 0.50 / 0.90; 9 % of its parameters"
    text, _ = claimed("remembers", {"exact": (0.1, 0.9), "old": 0.6}, LORA)
    assert text == "0.10 / 0.90 against 0.50 / 0.90; old tasks 0.60 against 0.50"


@pytest.mark.parametrize("method", mp.METHODS.values(), ids=mp.METHODS)
def test_every_claim_can_be_said(method):
    sentence = claims.said(method)
    assert bool(sentence) == (method.name not in ("full", "head", "trainable-tokens"))
    assert not sentence or f"`{method.claim[1]}`" in sentence


@pytest.mark.parametrize("claim", [("glory", "lora"), ("quality", "vera"), ("quality", "nova")])
def test_a_claim_that_makes_no_sense_is_refused(claim):
    method = type("Claimed", (), {"name": "vera", "claim": claim})
    with pytest.raises(ValueError, match="unknown"):
        claims.said(method)
