"""Pieces of code, found and replaced in a syntax tree whatever their variables are called.

A piece is an expression or a run of statements. Comments and line breaks do not matter, and
neither do the names of variables, attributes and keywords, as long as one name in the piece
stands for one name in the tree and the other way round. Some names stand for themselves: those
that the module binds at its top, Python's own, those with two underscores, and the attributes
of what the module imports, such as `xp.zeros`.
"""

import ast
import builtins
import textwrap

NAMED = {  # {(kind of node, field): what sort of name the field holds}
    (ast.Name, "id"): "variable",
    (ast.arg, "arg"): "variable",
    (ast.FunctionDef, "name"): "variable",
    (ast.ExceptHandler, "name"): "variable",
    (ast.Attribute, "attr"): "attribute",
    (ast.keyword, "arg"): "keyword",
}


def plant(tree, right, wrong, within=None):
    """Put the piece `wrong` where a tree has `right`; returns (old nodes, renaming).

    `right` must be there once: as it is written, or else up to its names. The renaming is
    {(sort, name in `right`): name in the tree}, and `wrong` is renamed by it too. `within` is
    the name of a function to which the search is limited. Raises LookupError otherwise.
    """
    old, new = parsed(right, wrong)
    nodes, holder, place, renaming = the_one(tree, old, right, within)
    stands = names_of(tree)
    for part in (part for node in new for part in ast.walk(node)):
        for field in part._fields:
            if name := named(part, field, stands):
                setattr(part, field, renaming.get(name, name[1]))
        ast.copy_location(part, nodes[0])
    if isinstance(holder, list):
        holder[place : place + len(old)] = new
    else:
        setattr(holder, place, *new)
    return nodes, renaming


def parsed(*texts):
    """Each text as a list of nodes: one expression if all are expressions, else statements."""
    texts = [textwrap.dedent(text).strip() for text in texts]
    try:
        return [[ast.parse(text, mode="eval").body] for text in texts]
    except SyntaxError:
        return [ast.parse(text).body for text in texts]


def the_one(tree, piece, text, within=None):
    """The one of `matches`; LookupError if there is none or more."""
    found = list(matches(tree, piece, within))
    found = [match for match in found if is_exact(match)] or found
    if len(found) != 1:
        raise LookupError(f"{text!r} is there {len(found)} times, expected once")
    return found[0]


def is_exact(match):
    """Whether a match needs no renaming."""
    return all(name == there for (_, name), there in match[3].items())


def matches(tree, piece, within=None):
    """(nodes, what holds them, its index or field, renaming) for each place that can be it."""
    stands = names_of(tree)
    parts = [n for n in tree.body if within in (None, getattr(n, "name", None))]
    for part in parts:
        for nodes, holder, place in places(part, len(piece)):
            renaming, back = {}, {}

            def same(name, there, renaming=renaming, back=back):
                known = renaming.setdefault(name, there)
                return known == there and back.setdefault((name[0], there), name) == name

            if equal(piece, nodes, same, stands):
                yield nodes, holder, place, renaming


def places(tree, n):
    """(n nodes, what holds them, its index or field) for each run of n nodes in a tree."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list):
                for i in range(len(value) - n + 1):
                    yield value[i : i + n], value, i
            elif isinstance(value, ast.AST) and n == 1:
                yield [value], node, field


def equal(ours, theirs, same, stands):
    """Whether two nodes, lists or constants are equal, where `same` says which names are."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, list):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(equal(*pair, same, stands) for pair in pairs)
    if not isinstance(ours, ast.AST):
        return ours == theirs
    for field in ours._fields:
        one, two = getattr(ours, field), getattr(theirs, field)
        name = named(ours, field, stands)
        if isinstance(theirs, ast.Attribute) and not named(theirs, field, stands):
            name = None  # an attribute of what is imported has no other name
        if not (same(name, two) if name else equal(one, two, same, stands)):
            return False
    return True


def named(node, field, stands):
    """(sort, name) that a field of a node holds, or None if it holds none or a fixed one."""
    sort, name = NAMED.get((type(node), field)), getattr(node, field)
    if sort is None or name is None or name[:2] == "__":
        return None
    root = node
    while isinstance(root, ast.Attribute):
        root = root.value
    of_import = root is not node and getattr(root, "id", None) in stands["imported"]
    fixed = of_import or (sort == "variable" and name in stands["bound"])
    return None if fixed else (sort, name)


def names_of(tree):
    """The names that stand for themselves in a module: those imported, and all bound."""
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    imported = {(a.asname or a.name).split(".")[0] for n in imports for a in n.names}
    defined = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assigned = [n for n in tree.body if isinstance(n, (ast.Assign, ast.AnnAssign))]
    stored = [n for part in assigned for n in ast.walk(part) if isinstance(n, ast.Name)]
    stored = [n.id for n in stored if isinstance(n.ctx, ast.Store)]
    bound = {*imported, *defined, *stored, *dir(builtins)}
    return {"imported": imported, "bound": bound}
