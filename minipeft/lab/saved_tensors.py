"""Lists the arrays that a tape keeps alive, by looking into the derivatives themselves.

An array lives as long as something refers to it. The tape of a loss consists of nodes; each has
edges (source node, derivative), and a derivative is a function whose closure refers to the
arrays that it needs in the backward pass: the activations, and weights.
"""

from ..engine.backend import xp
from ..engine.tensor import Tensor
from .shape_array import ShapeArray


def tape_arrays(loss, parameters=()):
    """Returns the arrays that the tape behind `loss` keeps alive, each buffer once.

    The arrays of `parameters` are left out; given all of a model's, the activations remain.
    """
    weights = {id(base_buffer(a)) for p in parameters for a in p.arrays.values()}
    derivatives = [vjp for node in tape_nodes(loss) for _, vjp in node.edges]
    return [array for array in buffers(*derivatives) if id(array) not in weights]


def tape_nodes(loss):
    """Returns the nodes behind `loss` that have edges, oldest first: all of them but leaves."""
    seen, todo = set(), [loss.node]
    while todo:
        node = todo.pop()
        if node is not None and node.edges and node not in seen:
            seen.add(node)
            todo += [source for source, _ in node.edges]
    return sorted(seen, key=lambda node: node.number)


def buffers(*holders):
    """Returns the arrays whose memory the holders keep alive, each once.

    A holder is an array, a Tensor, a function (by its closure and defaults), or a tuple or list
    of holders. A view keeps the array alive that owns its memory.
    """
    arrays, seen, todo = {}, set(), list(holders)
    while todo:
        holder = todo.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, Tensor):
            todo += holder.arrays.values()
        elif isinstance(holder, (xp.ndarray, ShapeArray)):
            owner = base_buffer(holder)
            arrays[id(owner)] = owner
        elif isinstance(holder, (tuple, list)):
            todo += holder
        else:  # a derivative, or a function that it shares with others
            todo += getattr(holder, "__defaults__", None) or ()
            todo += [cell.cell_contents for cell in getattr(holder, "__closure__", None) or ()]
    return list(arrays.values())


def base_buffer(a):
    """Returns the array that owns the memory of `a`: the one it is a view of, or itself."""
    while isinstance(a.base, (xp.ndarray, ShapeArray)):
        a = a.base
    return a
