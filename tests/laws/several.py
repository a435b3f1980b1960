"""Laws of two adapters, of what comes after an operation, and of what belongs together."""

import contextlib
import copy
import dataclasses
import pickle
import tempfile

import minipeft as mp
from laws.case import bits, close, logits, same, shake, sites, steps
from minipeft.engine.backend import np, to_numpy
from minipeft.peft.base import adapters, in_use
from minipeft.train.batch_gradient import batch_gradient


def law_18_two_adapters_leave_each_other_right(case):
    """Merging, unmerging, detaching, disabling or choosing rows changes no other adapter.

    What would is refused, and then changes nothing. The others are (IA)³, and DoRA, which is
    made for its weights; neither commutes with much. `test_pairs` takes all pairs.
    """
    for other in (mp.IA3(), mp.DoRA(1)):
        check_pair(case, other, reload=True)


def check_pair(case, other, reload=False):
    """Law 18 for the method of a case, 'a', below another, 'b'; reload also what is left."""
    try:
        net, ids = pair(case, other)
    except ValueError:  # the second does not fit so small a model, or not beside the first
        return
    attached, before = logits(net, ids), state(net)
    plain = logits(case.base(), ids)
    with mp.disabled(net):
        same(logits(net, ids), plain, "logits of the base, disabled")
    assert state(net) == before, "disabling changed something"
    for name in "ab":
        merged_beside_another(net, name, ids, attached, reload)
    rows_of_two(net, ids)
    for name, left in ("ab", "ba"):
        one = copy.deepcopy(net)
        mp.detach(one, name)
        for either in (one, net):
            mp.use(either, left)
        same(logits(one, ids), logits(net, ids), f"logits of {left!r} after detaching")


def pair(case, other):
    """(model, ids): two methods in use, the first innermost, all they train made random."""
    net, _ = case.attached("a")
    shake(mp.attach(net, other, "b", rng=case.seed + 1), case.seed + 1)
    with contextlib.suppress(ValueError):  # those that replace the same parameters
        mp.use(net, ["a", "b"])
    return net, case.batch()[0]


def merged_beside_another(net, name, ids, attached, reload):
    """Merge one of two: the logits stay, or it is refused. Unmerge it: every bit is back."""
    before, (other,) = state(net), {*"ab"} - {name}
    used = [n for n in in_use(net) if n != name]
    wanted = attached
    if name not in in_use(net):  # then merging adds it, below the others
        with_it = copy.deepcopy(net)
        try:
            mp.use(with_it, [name, *used])
        except ValueError:
            return
        wanted = logits(with_it, ids)
    try:
        receipt = mp.merge(net, name)
    except ValueError:
        assert state(net) == before, "a refused merge changed something"
        return
    close(logits(net, ids), wanted, 1e-11, f"logits after merging {name!r}")
    mp.use(net, other)
    if reload:
        reloaded(net, other, ids)
    mp.use(net, used)
    mp.unmerge(receipt)
    assert state(net) == before, "unmerging did not restore every bit"


def reloaded(net, name, ids):
    """An adapter that is saved, detached and loaded is the same."""
    with tempfile.TemporaryDirectory() as folder:
        mp.save_adapter(net, name, folder)
        fresh = copy.deepcopy(net)
        mp.detach(fresh, name)
        mp.load_adapter(fresh, folder, name)
        same(logits(fresh, ids), logits(net, ids), f"{name!r} reloaded after a merge")


def rows_of_two(net, ids):
    """Each row gets what it gets alone; merging an adapter of some rows is refused."""
    alone = {}
    for name in ("a", "b", None):
        mp.use(net, name)
        alone[name] = logits(net, ids)
    rows = ["a", None, "b"][: len(ids)]
    try:
        mp.use(net, rows=rows)
    except ValueError:
        return
    for i, name in enumerate(rows):
        close(logits(net, ids)[i], alone[name][i], 1e-11, f"row {i}, which uses {name!r}")
    before = state(net)
    for name in in_use(net):
        try:
            mp.merge(net, name)
        except ValueError:
            assert state(net) == before, "a refused merge changed something"
        else:
            raise AssertionError("an adapter of some rows was merged into all")


def state(net):
    """All that a model is: its bits, adapters, what is in use where, and what trains."""
    return {
        "base": bits(net),
        "adapters": {
            name: {path: to_numpy(p.data).tobytes() for path, p in a.named_parameters()}
            for name, a in adapters(net).items()
        },
        "used": list(in_use(net)),
        "rows": [None if rows is None else list(rows) for rows in in_use(net).values()],
        "trains": {path for path, p in net.named_parameters() if p.requires_grad},
        "sites": [
            (sorted(s.deltas), [named(s, delta) for delta, _ in s.active]) for s in sites(net)
        ],
        "tied": net.config.tied,
    }


def named(site, delta):
    """The name under which a change is at its site."""
    return next((name for name, each in site.deltas.items() if each is delta), "no adapter")


def law_19_what_follows_is_the_same_elsewhere(case):
    """After any operations: what trains is what is in use, or else what trained at first.

    A copy, a pickled model, and one that is loaded from files give the same logits, gradients,
    and weights after a step. The operations after the first are drawn by the seed.
    """
    rng = np.random.default_rng(case.seed)
    net, _ = case.attached()
    first = {path for path, p in case.base().named_parameters() if p.requires_grad}
    merged = []
    drawn = rng.choice(["attach", "merge", "unmerge", "detach", "disable", "use"], 3)
    for step, kind in enumerate(["merge", *drawn[: case.seed % 4]]):
        some_operation(kind, net, case, rng, f"n{step}", merged)
    used = [adapters(net)[name] for name in in_use(net)]
    trains = {path for path, p in net.named_parameters() if p.requires_grad}
    if used or adapters(net):
        own = {id(p) for adapter in used for p in adapter.parameters()}
        assert {id(p) for p in net.parameters() if p.requires_grad} == own, "not what is in use"
    else:
        first |= {"lm_head.weight"} if "wte.weight" in first and not net.config.tied else set()
        assert trains == first, f"without adapters {trains ^ first} do not train as at first"
    if trains:
        wanted = what_follows(copy.deepcopy(net), case)
        for other in (pickle.loads(pickle.dumps(net)), from_files(net), net):
            found = what_follows(other, case)
            for name in wanted:
                same(found[name], wanted[name], f"{name} of a copy")


def some_operation(kind, net, case, rng, name, merged):
    """Do one thing of those that a user may do, with an adapter drawn at random."""
    there = list(adapters(net))
    with contextlib.suppress(ValueError):  # what is refused changes nothing, by law 18
        if kind == "attach":
            mp.attach(net, case.method, name, rng=int(rng.integers(99)))
        elif kind == "merge" and there:
            merged.append(mp.merge(net, rng.choice(there)))
        elif kind == "unmerge" and merged:
            mp.unmerge(merged.pop())
        elif kind == "detach" and there:
            mp.detach(net, rng.choice(there))
        elif kind == "disable":
            with mp.disabled(net):
                pass
        elif kind == "use" and there:
            mp.use(net, rng.choice(there))


def what_follows(net, case):
    """Logits, gradients, and weights after one step, {name: array}."""
    ids, labels = case.batch()
    found = {"logits": logits(net, ids)}
    net.zero_grad()
    batch_gradient(net, ids, labels)
    found |= {
        f"gradient of {path}": to_numpy(p.grad).copy()
        for path, p in net.named_parameters()
        if p.grad is not None
    }
    steps(net, case, 1)
    found |= {path: to_numpy(p.data).copy() for path, p in net.named_parameters()}
    return found


def from_files(net):
    """A model and its adapters, saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        used = dict(in_use(net))
        with mp.disabled(net):
            mp.save_model(net, f"{folder}/base")
            fresh = mp.load_model(f"{folder}/base")
            for i, name in enumerate(adapters(net)):
                mp.save_adapter(net, name, f"{folder}/{i}")
                mp.load_adapter(fresh, f"{folder}/{i}", name)
        exported = [a.method.export_form() != a.method for a in adapters(net).values()]
        if any(exported):  # it is saved without the network that makes its parameters
            return copy.deepcopy(net)
        if used or adapters(net):
            mp.use(fresh, used)
    return fresh


def law_20_identity(case):
    """What was made for another base, method, order, or data is refused, by name."""
    ids, labels = case.batch(4)
    net, _ = case.attached()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run.safetensors"
        fitted(net, ids, labels, path, until=1)
        mp.save_adapter(net, "a", folder)
        for field, value in dict(norm_eps=2e-5, rope_theta=9999.0).items():
            fresh = case.base()
            fresh.config = fresh.config.with_(**{field: value})
            refuses(lambda fresh=fresh: mp.load_adapter(fresh, folder), field)
        replaced, _ = case.attached()
        mp.detach(replaced, "a")
        mp.attach(replaced, other(case), "b")
        vocab = case.config.vocab
        for what, tuned, theirs, asked in (
            ("data.digest", case.attached()[0], (ids + 1) % vocab, labels),
            ("data.digest", case.attached()[0], ids, (labels + 1) % vocab),
            ("adapters.0.name", replaced, ids, labels),
        ):
            refuses(lambda n=tuned, i=theirs, a=asked: fitted(n, i, a, path), what)
        options = [f.name for f in dataclasses.fields(case.method) if "dropout" in f.name]
        for option in options:  # changes no array, but what the run computes
            method = dataclasses.replace(case.method, **{option: 0.5})
            again, _ = dataclasses.replace(case, method=method).attached()
            refuses(lambda n=again: fitted(n, ids, labels, path), option)
        fitted(case.attached()[0], ids, labels, path)  # and the right one goes on


def other(case):
    """Another method."""
    return mp.METHODS["full" if case.method.name == "norms" else "norms"]()


def fitted(net, ids, labels, path, until=2):
    """Train with a checkpoint."""
    mp.fit(net, mp.Examples(ids, labels), 8, 2, 0.01, checkpoint=path, until=until, label=None)


def refuses(work, what):
    """Something must raise ValueError with a name in its text."""
    try:
        work()
    except ValueError as error:
        assert what in str(error), f"{what} is not named: {error}"
    else:
        raise AssertionError(f"another {what} was accepted")
