"""The contract that every method keeps, one function a law.

A law takes a Case, raises AssertionError where it does not hold, and draws nothing itself: it
can be run by hypothesis on the real code, and by hand on a planted bug. Trained parameters are
made random first, for at their neutral start most laws would hold of anything.
"""

from laws import computing, failing, keeping, several

FILES = (keeping, computing, several, failing)
FOUND = {name: law for file in FILES for name, law in vars(file).items()}
LAWS = {int(name[4:6]): law for name, law in sorted(FOUND.items()) if name.startswith("law_")}
