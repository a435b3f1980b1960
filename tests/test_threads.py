"""One model and several threads: many may compute, or one may change it."""

import copy
import gc
import pickle
import threading

import pytest

import minipeft as mp
from minipeft.engine.backend import to_numpy
from minipeft.model import transaction
from strategies import batch, model

CONFIG = mp.Config.llama(vocab=7, context=16, width=4, layers=1, heads=2, kv_heads=1, ffn=3)


def tuned():
    """A model with a LoRA in use."""
    net = model(CONFIG)
    for p in mp.attach(net, mp.LoRA(r=2), "a").parameters():
        p.data += 0.3
    return net


def elsewhere(work):
    """What a work returns or raises in another thread."""
    found = []

    def run():
        try:
            found.append(work())
        except RuntimeError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def logits(net):
    return to_numpy(net([[1, 2, 3]]).data).tobytes()


CHANGES = {
    "use": lambda net: mp.use(net, None),
    "attach": lambda net: mp.attach(net, mp.IA3(), "b"),
    "detach": lambda net: mp.detach(net, "a"),
    "merge": lambda net: mp.merge(net, "a"),
    "disabled": lambda net: mp.disabled(net).__enter__(),
    "fit": lambda net: mp.fit(net, mp.Examples(*batch(CONFIG)), 1, 2, label=None),
}
USES = {
    "forward": logits,
    "generate": lambda net: mp.generate(net, [[1, 2]], 2),
    "evaluate": lambda net: mp.evaluate(net, mp.Examples(*batch(CONFIG))),
    **CHANGES,
}


@pytest.mark.parametrize("use", USES)
def test_while_one_thread_changes_a_model_no_other_uses_it(use):
    net = tuned()
    with mp.disabled(net):
        found = elsewhere(lambda: USES[use](net))
        assert "another thread changes or trains this model" in str(found)
    assert not isinstance(elsewhere(lambda: logits(net)), RuntimeError)


@pytest.mark.parametrize("change", CHANGES)
def test_while_a_thread_computes_no_other_changes_the_model(change):
    net = tuned()
    before = logits(net)
    with transaction.computing(net):
        found = elsewhere(lambda: CHANGES[change](net))
        assert "another thread computes with this model" in str(found)
        assert elsewhere(lambda: logits(net)) == before == logits(net)


def test_no_answer_is_of_neither():
    """While one thread switches an adapter, another gets its logits, or is refused."""
    net, seen, done = tuned(), [], threading.Event()
    right = logits(net)

    def compute():
        while not done.is_set():
            try:
                seen.append(logits(net))
            except RuntimeError:
                continue

    thread = threading.Thread(target=compute)
    thread.start()
    switched = 0
    while switched < 50:
        try:
            with mp.disabled(net):
                switched += 1
        except RuntimeError:
            continue
    done.set()
    thread.join()
    assert {*seen} <= {right}


def test_a_change_under_way_is_not_refused_by_one_that_begins():
    """Another thread that has announced itself, and not yet looked, does not end a change."""
    net = tuned()
    before = logits(net)
    with mp.disabled(net):
        other = transaction.Use(user=-1, changes=False)
        transaction._uses[net].add(other)
    assert list(mp.in_use(net)) == ["a"]
    del other
    assert logits(net) == before


def test_two_runs_on_one_model_at_once_are_refused():
    net, data = tuned(), mp.Examples(*batch(CONFIG))
    refused = []

    class Data:
        """Examples that start another run at the second step."""

        ids, labels = data.ids, data.labels

        def __len__(self):
            return len(data)

        def batch(self, step, size, seed):
            if step == 1:
                refused.append(elsewhere(lambda: mp.fit(net, data, 1, 2, label=None)))
            return data.batch(step, size, seed)

    mp.fit(net, Data(), 2, 2, label=None)
    assert "another thread changes or trains" in str(refused[0])


def test_copies_and_pickles_are_models_of_their_own():
    net = tuned()
    with mp.disabled(net):
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert elsewhere(lambda twin=twin: logits(twin)) == logits(net)
    count = len(transaction._uses)
    del twin, net
    gc.collect()
    assert len(transaction._uses) < count
