"""What a tape holds: asked, not computed.

An array lives as long as a derivative's closure refers to it, so the closures are looked into.
"""

from ..engine.backend import xp
from ..engine.tensor import Tensor
from .shape_array import ShapeArray


def tape_arrays(loss, parameters=()):
    """The arrays that the tape behind `loss` keeps alive, each buffer once.

    Walks from the loss to the leaves and looks into the closures of the derivatives. Those of
    the `parameters` are left out: what remains are activations.
    """
    owned = {id(base_buffer(a)) for p in parameters for a in p.arrays.values()}
    held = {id(b): b for node in recorded(loss) for _, vjp in node.edges for b in buffers(vjp)}
    return [buffer for key, buffer in held.items() if key not in owned]


def recorded(loss):
    """Every node behind `loss` that has derivatives, the oldest first."""
    seen, todo = set(), [loss.node]
    while todo:
        node = todo.pop()
        if node is not None and node.edges and node not in seen:
            seen.add(node)
            todo += [source for source, _ in node.edges]
    return sorted(seen, key=lambda node: node.number)


def buffers(*things):
    """The arrays that own the memory which things hold on to, each once.

    A thing is an array, a Tensor, a derivative or another function, or a tuple or list of them.
    """
    found, seen, todo = {}, set(), list(things)
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            todo += thing.arrays.values()
        elif isinstance(thing, (xp.ndarray, ShapeArray)):
            found[id(base_buffer(thing))] = base_buffer(thing)
        elif isinstance(thing, (tuple, list)):
            todo += thing
        else:  # a derivative, or a function that it shares with others
            todo += getattr(thing, "__defaults__", None) or ()
            todo += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    return list(found.values())


def base_buffer(a):
    """The array whose memory a view looks into; an array that is no view is its own."""
    while isinstance(a.base, (xp.ndarray, ShapeArray)):
        a = a.base
    return a
