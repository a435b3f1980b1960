"""Answers to try the lessons' checks on: {check: (a right one, wrong ones …)}."""

import importlib
import pkgutil

ANSWERS = {}
for module in pkgutil.iter_modules(__path__):
    own = importlib.import_module(f"{__name__}.{module.name}").ANSWERS
    ANSWERS |= {f"{module.name}.{name}": answers for name, answers in own.items()}
