"""All or nothing: an operation on a model that fails leaves the model as it was.

    @all_or_nothing
    def merge(model, name): …

An operation changes a model by putting other Parameters, changes and adapters in place of those
that are there; no array is written to. So it is enough to note, before an operation, which
objects the model consists of and which of them train. This takes no memory for weights. If the
operation raises anything, from ValueError to KeyboardInterrupt, each object gets back what it
held.

While one thread changes a model, no other may use it. Several may compute with it at once.
"""

import contextlib
import functools
import threading
import weakref
from contextvars import ContextVar

_uses = weakref.WeakKeyDictionary()  # {model: each Use of it now}
_user = ContextVar("user", default=None)  # a thread, also for those that compute for it


def all_or_nothing(operation):
    """Returns the operation, whose first argument is a model, so that it succeeds or undoes.

    Raises RuntimeError if another thread uses the model.
    """

    @functools.wraps(operation)
    def transaction(model, *args, **options):
        before = None
        try:
            with changing(model):
                before = whole(model)
                return operation(model, *args, **options)
        except BaseException:
            undo(before)
            raise

    return transaction


def whole(model):
    """Returns the snapshot of a model with all its adapters."""
    modules = [module for _, module in model.named_modules()]
    adapters = list(vars(model).get("adapters", {}).values())
    parameters = [p for m in modules for p in vars(m).values() if hasattr(p, "node")]
    for adapter in adapters:
        parameters += [*adapter.copies.values(), *adapter.originals.values()]
    return snapshot([*modules, *adapters], parameters)


def snapshot(owners, parameters):
    """Returns what modules and adapters hold: [(dict or list, copy)], [(Parameter, node)].

    A Parameter is trainable while it has a node.
    """
    held = [vars(owner) for owner in owners]
    held += [part for state in held for part in state.values() if type(part) in (dict, list)]
    nodes = [(p, p.node) for p in parameters if p is not None]  # a tied head has none
    return [(each, each.copy()) for each in held], nodes


def undo(snapshot):
    """Put back what a snapshot holds; None is of an operation that did not begin.

    Ctrl-C meanwhile makes it start again.
    """
    containers, nodes = snapshot or ((), ())
    while True:
        try:
            for container, held in containers:
                container.clear()
                add = container.update if type(container) is dict else container.extend
                add(held)
            for parameter, node in nodes:
                parameter.node = node
            return
        except KeyboardInterrupt:
            continue


def computing(model):
    """Inside the block this thread computes with a model, and no other may change it.

    Raises RuntimeError while another thread changes it.
    """
    return using(model, changes=False)


def changing(model):
    """Inside the block no other thread may use a model.

    Raises RuntimeError while another thread computes with it or changes it.
    """
    return using(model, changes=True)


@contextlib.contextmanager
def using(model, changes):
    """Inside the block this thread uses a model: see `computing` and `changing`."""
    if not hasattr(model, "named_modules"):
        raise TypeError(f"expected a model, such as load_base(), got {model!r}")
    use = Use(_user.get() or threading.get_ident(), changes)
    uses = _uses.setdefault(model, weakref.WeakSet())
    token = _user.set(use.user)
    # who is within a change already has the model; others that begin now will be refused
    has_it = any(other.changes and other.user == use.user for other in list(uses))
    try:
        uses.add(use)  # and then look: of two that begin at once, one at least sees the other
        others = [] if has_it else [o.changes for o in list(uses) if o.user != use.user]
        if any(others) or (changes and others):
            does = "changes or trains" if any(others) else "computes with"
            raise RuntimeError(
                f"another thread {does} this model; wait for it, or give each thread a "
                "copy.deepcopy(model)"
            )
        yield
    finally:
        _user.reset(token)
        uses.discard(use)


class Use:
    """That a thread uses a model, and whether it changes it. It ends when this is deleted."""

    def __init__(self, user, changes):
        self.user, self.changes = user, changes
