"""Planted bugs find their place by the syntax tree: formatting and names do not matter."""

import ast
import builtins
import importlib

import pytest

import bugs
import test_mistakes
import test_stateful
from patterns import NAMED, names_of, parsed, plant
from planted import tree_of

PLACES = [(bug.module, bug.right, bug.wrong, None) for bug in bugs.BUGS]
PLACES += [(*bug, None) for bug in test_stateful.PLANTED]
PLACES += [
    (test_mistakes.module_of(name), right, wrong, name)
    for name, right, wrong in test_mistakes.WRONG
]
every_place = pytest.mark.parametrize("module, right, wrong, within", PLACES)


def renamed(tree, stay):
    """A tree in which all names but those that `stay` have another end."""
    for node in ast.walk(tree):
        for field in node._fields:
            name = getattr(node, field)
            if (type(node), field) in NAMED and name is not None and name not in stay:
                if not name.startswith("__") and not of_import(node, stay):
                    setattr(node, field, f"{name}_renamed")
    return tree


def of_import(node, stay):
    """Whether a node is an attribute such as xp.zeros, which no module of ours can rename."""
    text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
    return "." in text and text.split(".")[0] in stay


def tree(module):
    return tree_of(importlib.import_module(f"minipeft.{module}"))


@every_place
def test_a_rename_breaks_nothing(module, right, wrong, within):
    """All variables and attributes renamed, and written anew: still the same one place."""
    plain, other = tree(module), tree(module)
    stay = names_of(plain)["bound"]
    assert within is None or within in stay
    other = renamed(other, stay)
    anew = ast.parse(ast.unparse(other))
    here, there, again = (plant(t, right, wrong, within) for t in (plain, other, anew))
    assert [(n.lineno, n.col_offset) for n in here[0]] == [
        (n.lineno, n.col_offset) for n in there[0]
    ]
    assert [ast.dump(n) for n in there[0]] == [ast.dump(n) for n in again[0]]
    assert all(name == there for (_, name), there in here[1].items()), "not as it is written"
    renamed(plain, stay)  # the wrong version, renamed, is the renamed one's wrong version
    compile(other, module, "exec")


@every_place
def test_what_is_wrong_has_no_names_of_its_own(module, right, wrong, within):
    """So that it is renamed with the rest: variables are of `right`, or bound at the top."""
    old, new = (ast.Module(nodes, []) for nodes in parsed(right, wrong))
    known = variables(old) | names_of(tree(module))["bound"] | set(dir(builtins))
    assert variables(new, ast.Load) <= known | variables(new, ast.Store)


def variables(part, kind=ast.expr_context):
    """The variables that a piece reads, or with Store binds, arguments of lambdas too."""
    names = [n for n in ast.walk(part) if isinstance(n, ast.Name)]
    names = {n.id for n in names if isinstance(n.ctx, kind)}
    bound = {n.arg for n in ast.walk(part) if isinstance(n, ast.arg)}
    return names if kind is ast.Load else names | bound


CODE = """
import numpy as np
from engine import linear

SIZE = 3

def f(x, y):
    z = x + y
    return linear(z, SIZE) - np.zeros(len(x))

def g(a, b):
    c = a + a
    return linear(c, SIZE) - np.ones(len(a))

def h(a, b):
    return a.weight + b.weight
"""


def after(right, wrong, within=None):
    """What CODE says when a piece has been put there, in its own formatting."""
    changed = ast.parse(CODE)
    plant(changed, right, wrong, within)
    return ast.unparse(changed)


def test_a_piece_is_replaced_and_nothing_else():
    wanted = ast.unparse(ast.parse(CODE.replace("np.zeros(len(x))", "np.zeros(len(y))")))
    assert after("x + y", "y") == ast.unparse(ast.parse(CODE.replace("x + y", "y")))
    assert after("np.zeros(len(x))", "np.zeros(len(y))") == wanted
    assert after("np . zeros(\n    len(x),\n)", "np.zeros(len(y))") == wanted


def test_names_of_a_piece_may_be_other_ones():
    wanted = ast.unparse(ast.parse(CODE.replace("c = a + a", "c = a - a")))
    assert after("q = r + r", "q = r - r") == wanted  # one name for one: not z = x + y
    wanted = ast.unparse(ast.parse(CODE.replace("a.weight + b.weight", "b.weight + a.weight")))
    assert after("one.w + two.w", "two.w + one.w") == wanted
    assert after("q = r + s", "q = s").count("z = y") == 1


@pytest.mark.parametrize(
    ("right", "times"),
    [
        ("linear(z, SIZE) - np.empty(len(x))", 0),  # what is imported stays what it is
        ("f(z, SIZE)", 0),
        ("q.one + r.two", 0),  # two names for one
        ("len(v)", 2),
        ("r.one", 2),  # np.zeros has no other name
        ("x * y", 0),
        ("z = x + y\nz = x + y", 0),
    ],
)
def test_what_is_not_there_once_is_refused(right, times):
    with pytest.raises(LookupError, match=f"{times} times"):
        after(right, right)


def test_a_function_limits_the_search():
    assert after("len(v)", "v", within="f") == after("np.zeros(len(x))", "np.zeros(x)")
    with pytest.raises(LookupError, match="0 times"):
        after("x + y", "x", within="no_such")
