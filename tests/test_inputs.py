"""What a model is given: token ids, labels, padding and lengths; each mistake has its words."""

import pytest

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.engine.functional import IGNORE
from minipeft.train.data import Examples
from strategies import batch, model
from test_train import examples
from test_transformer import SMALL, close, logits

SHAPES = pytest.mark.parametrize("shape", [mp.Config.gpt2, mp.Config.llama])
BAD_IDS = [
    ([[0, 7]], "token id 7 is not in the vocabulary"),
    ([[-1, 0]], "token id -1 is not in the vocabulary"),
    ([[0.0, 1.0]], "integers, got float64"),
    ([[True, False]], "integers, got bool"),
    ([["a", "b"]], "integers, got"),
    ([], "non-empty"),
    ([[]], "non-empty"),
    (np.zeros((0, 3), int), r"non-empty \(B, T\) array, got shape \(0, 3\)"),
    ([[1, 2], [3]], "rows of token ids have unequal lengths; pad them"),
    ([1, 2], r"\(B, T\) array, got shape \(2,\)"),
    ([[[1]]], r"\(B, T\) array, got shape \(1, 1, 1\)"),
]


@SHAPES
@pytest.mark.parametrize("ids, message", BAD_IDS)
def test_bad_token_ids(shape, ids, message):
    with pytest.raises(ValueError, match=message):
        mp.Transformer(shape(**SMALL), 0)(ids)


@SHAPES
@pytest.mark.parametrize("T", [9, 20])
def test_too_long_a_sequence_says_by_how_much(shape, T):
    net = mp.Transformer(shape(**SMALL), 0)
    with pytest.raises(ValueError, match=f"{T} slots are {T - 8} more than the context of 8"):
        net(np.zeros((1, T), int))
    logits(net, np.zeros((1, 8), int))


@SHAPES
def test_a_full_cache_says_by_how_much_and_stays_usable(shape):
    net = model(shape(**SMALL))
    ids, _ = batch(net.config, T=8)
    with mp.no_grad():
        _, cache = net.read(ids[:, :6])
        for bad, message in (
            (
                ids[:, :3],
                "9 slots are 1 more than the context of 8: 6 cached, 0 virtual",
            ),
            (ids[:, 6:] + 100, "not in the vocabulary"),
            (ids[:1, 6:], "the cache is of 3 rows, the ids are of 1"),
        ):
            with pytest.raises(ValueError, match=message):
                net.read(bad, cache)
        found = to_numpy(net.read(ids[:, 6:], cache)[0].data)
    close(found, logits(net, ids)[:, 6:])


def test_real_has_the_shape_of_the_ids():
    net = mp.Transformer(mp.Config.gpt2(**SMALL), 0)
    for bad in (np.ones((1, 3)), np.ones((2, 4)), np.ones(4), True):
        with pytest.raises(
            ValueError, match=r"attention_mask has shape .* its token ids \(1, 4\)"
        ):
            net(np.zeros((1, 4), int), attention_mask=bad)


BAD_LABELS = [
    ([[IGNORE, IGNORE]], r"all labels are padding \(-100\)"),
    ([[7, 0]], "label 7 is no token .0 … 6. and no padding"),
    ([[-1, 0]], "label -1 is no token"),
    ([[0]], r"labels have shape \(1, 1\), their token ids \(1, 2\)"),
    ([[0, 1], [0, 1]], r"labels have shape \(2, 2\)"),
    ([[0.0, 1.0]], "labels are integers, got float64"),
]


@SHAPES
@pytest.mark.parametrize("labels, message", BAD_LABELS)
def test_bad_labels(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        mp.Transformer(shape(**SMALL), 0).loss([[0, 1]], labels)


def test_labels_that_are_all_padding_are_refused():
    nothing = Examples(np.zeros((4, 3), int), np.full((4, 3), IGNORE))
    net = mp.Transformer(mp.Config.gpt2(**SMALL), 0)
    for f in (mp.fit, mp.evaluate):
        with pytest.raises(ValueError, match="all labels are padding"):
            f(net, nothing)


def test_what_are_no_examples_is_refused():
    net = mp.Transformer(mp.Config.gpt2(**SMALL), 0)
    with pytest.raises(TypeError, match="fit learns from Examples or a Task, got 'gerund'"):
        mp.fit(net, "gerund")
    with pytest.raises(TypeError, match=r"evaluate takes Examples, such as .* got Task"):
        mp.evaluate(net, mp.Task("gerund"))
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"batch_size must be .* got {size}"):
            mp.evaluate(net, examples(), size)


def test_bad_token_ids_and_labels_are_refused():
    net, data = mp.Transformer(mp.Config.gpt2(**SMALL), 0), examples(vocab=7)
    for f in (mp.fit, mp.evaluate):
        with pytest.raises(ValueError, match="token id 99 is not in the vocabulary"):
            f(net, Examples(np.full_like(data.ids, 99), data.labels))
        with pytest.raises(ValueError, match="label 99 is no token"):
            f(net, Examples(data.ids, np.where(data.labels >= 0, 99, IGNORE)))
