"""The contract that every method keeps, one function a law.

A law takes a Case, raises AssertionError where it does not hold, and draws nothing itself: it
can be run by hypothesis on the real code, and by hand on a planted bug. Trained parameters are
made random first, for at their neutral start most laws would hold of anything.
"""

from laws import computing, keeping, several

LAWS = {
    int(name[4:6]): law
    for name, law in sorted((vars(keeping) | vars(computing) | vars(several)).items())
    if name.startswith("law_")
}
