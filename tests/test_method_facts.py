"""What the class attributes of a method say agrees with its file and with what was measured."""

import inspect
import re
import statistics

import pytest

import minipeft as mp
from minipeft.lab.compare import RATES_IN_ORDER, shipped_rates

every_method = pytest.mark.parametrize("method", mp.METHODS.values(), ids=mp.METHODS)


@every_method
def test_a_method_says_all_that_tables_are_made_of(method):
    for fact in ("name", "family", "equation", "place", "peft_type"):
        assert getattr(method, fact), f"{method.__name__} does not say its {fact}"
    assert mp.METHODS[method.name] is method
    assert method.paper or method.family == "full"


@every_method
def test_its_file_begins_with_its_equation_and_names_its_paper(method):
    text = inspect.getdoc(inspect.getmodule(method))
    shown = re.search(r"^ {4,}(\S.*)$", text, re.M)[1]
    assert re.split(r" {4,}", shown)[0] == method.equation
    number = re.search(r"arXiv:\d{4}\.\d{5}", method.paper)
    assert number is None or number[0] in text


@every_method
def test_its_default_learning_rate_is_the_usual_one_of_the_measured_ones(method):
    middle = statistics.geometric_mean(shipped_rates()["rates"][method.name].values())
    assert method.learning_rate in RATES_IN_ORDER
    assert max(method.learning_rate / middle, middle / method.learning_rate) < 2


def test_a_method_is_in_a_file_of_its_own():
    files = [inspect.getmodule(method) for method in mp.METHODS.values()]
    assert len(set(files)) == len(files)


def test_methods_stand_family_by_family_the_oldest_first():
    families = [method.family for method in mp.METHODS.values()]
    assert list(dict.fromkeys(families)) == [
        f for i, f in enumerate(families) if i == 0 or f != families[i - 1]
    ]
    papers = [method.paper for method in mp.METHODS.values() if method.family == "lora"]
    numbers = [re.search(r"(?:arXiv:|20)([\d.]+)$", paper)[1] for paper in papers]
    assert numbers == sorted(numbers)
