"""Counts of trainable parameters as equations: what is printed is what is evaluated.

r (in + out) a target = 32 layers · 2 targets · 16 (4,096 + 4,096) = 8,388,608
"""

import math
import re
from dataclasses import dataclass, field

SYMBOL = re.compile(r"[a-z_]+[₁₂]?")


@dataclass(frozen=True)
class Term:
    """One product of a sum: how often, such as {"layer": 32, "target": 2}, and an equation.

    In an equation, what stands side by side is multiplied: "r (in + out)".
    """

    times: dict[str, int]
    equation: str
    values: dict[str, int] = field(default_factory=dict)  # of the symbols in the equation

    @property
    def count(self):
        """The number of parameters that it comes to."""
        return math.prod(self.times.values()) * evaluate(self.equation, self.values)

    def __str__(self):
        numbers = SYMBOL.sub(lambda name: f"{self.values[name[0]]:,}", self.equation)
        numbers = re.sub(r"(?<=\d) (?=\d)", " · ", numbers)
        if self.times and "+" in re.sub(r"\([^()]*\)", "", numbers):
            numbers = f"({numbers})"
        return " · ".join([*(plural(n, word) for word, n in self.times.items()), numbers])


def evaluate(equation, values):
    """The value of an equation for {symbol: whole number}.

    >>> evaluate("r (in + out) + k b (b − 1) / 2", {"r": 2, "in": 3, "out": 4, "k": 5, "b": 6})
    89
    """
    tokens = re.findall(rf"{SYMBOL.pattern}|\d+|\S", equation)

    def sum_of_products():
        total = product()
        while tokens and tokens[0] in "+−":
            sign = 1 if tokens.pop(0) == "+" else -1
            total += sign * product()
        return total

    def product():
        total = factor()
        while tokens and tokens[0] not in "+−)":
            if tokens[0] == "/":
                tokens.pop(0)
                total //= factor()
            else:
                total *= factor()
        return total

    def factor():
        token = tokens.pop(0)
        if token == "(":
            number = sum_of_products()
            tokens.pop(0)  # the closing bracket
        else:
            number = int(token) if token.isdigit() else values[token]
        power = {"²": 2, "³": 3}.get(tokens[0]) if tokens else None
        if power:
            tokens.pop(0)
        return number ** (power or 1)

    return sum_of_products()


def plural(n, word):
    """'2 layers', '1 layer'."""
    return f"{n:,} {word}{'s'[: n != 1]}"


def terms_of_shapes(shapes):
    """A Term for each different shape among those of whole parameters that train."""
    return [
        Term(
            {"tensor": shapes.count(shape)},
            " ".join("abcd"[: len(shape)]),
            dict(zip("abcd", shape, strict=False)),
        )
        for shape in dict.fromkeys(shapes)
    ]
