"""NumPy's numbers, sets, lists and tuples are taken alike; what is refused has its words."""

import inspect
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np
from minipeft.errors import check_flag, check_whole, to_python
from minipeft.options import Options
from strategies import model

SIZES = dict(vocab=11, context=16, width=8, layers=2, heads=4, ffn=6)
CONFIG = mp.Config.gpt2(**SIZES)
IDS = np.random.default_rng(0).integers(0, 11, (6, 6))
DATA = mp.Examples(IDS[:, :-1], IDS[:, 1:])
LORA = mp.LoRA(r=2)

WHOLE = [np.int64, np.int8, np.uint16, np.array]  # n in other words
FLAGS = [np.bool_, np.array]
BROKEN = [np.float64, float, str, lambda n: [n], lambda n: -n, lambda n: True, lambda n: np.inf]


def attached(*names):
    net = model(CONFIG, precision="float32")
    for name in names:
        mp.attach(net, LORA, name)
    return net


def bits(net):
    return [p.data.tolist() for p in net.parameters()]


def quantized(**options):
    net = attached()
    mp.quantize(net, **options)
    return bits(net)


def fitted(**options):
    net = attached("a")
    mp.fit(net, DATA, **dict(steps=2, batch_size=2, label=None) | options)
    return bits(net)


def combined(rank):
    net = attached("a", "b")
    return mp.combine(net, ["a", "b"], [1, 2], "svd", rank=rank).error


def with_loftq(**options):
    net = attached()
    mp.loftq(net, LORA, **options)
    return bits(net)


def written(**options):
    return mp.generate(
        attached(), [[1, 2]], **dict(max_new=3, temperature=1.0, rng=1) | options
    )


TAKE = {  # {argument: (a call with it, a value)}
    "Task.examples limit": (lambda n: len(mp.Task("past").examples("test", limit=n)), 5),
    "evaluate batch_size": (lambda n: mp.evaluate(attached(), DATA, batch_size=n), 4),
    "fit steps": (lambda n: fitted(steps=n), 2),
    "fit batch_size": (lambda n: fitted(batch_size=n), 2),
    "fit save_every": (lambda n: fitted(save_every=n), 2),
    "fit until": (lambda n: fitted(until=n), 1),
    "fit accumulate": (lambda n: fitted(accumulate=n), 2),
    "generate max_new": (lambda n: written(max_new=n), 3),
    "generate top_k": (lambda n: written(top_k=n), 3),
    "ledger batch": (lambda n: mp.ledger(CONFIG, LORA, seq=4, batch=n), 2),
    "ledger seq": (lambda n: mp.ledger(CONFIG, LORA, seq=n), 3),
    "ledger base_bits": (lambda n: mp.ledger(CONFIG, LORA, seq=3, base_bits=n), 4),
    "ledger accumulate": (lambda n: mp.ledger(CONFIG, LORA, seq=3, accumulate=n), 2),
    "quantize block": (lambda n: quantized(block=n), 32),
    "loftq steps": (lambda n: with_loftq(steps=n), 2),
    "loftq block": (lambda n: with_loftq(block=n), 32),
    "combine rank": (combined, 2),
}
SEEDS = {
    "generate stop": lambda n: written(stop=n),
    "attach rng": lambda n: bits_of_adapter(n),
    "Transformer rng": lambda n: bits(mp.Transformer(CONFIG, n)),
    "generate rng": lambda n: written(rng=n),
    "combine rng": lambda n: (
        mp.combine(attached("a", "b"), ["a", "b"], [1, 2], "dare", rng=n).error
    ),
}


def bits_of_adapter(n):
    return [p.data.tolist() for p in mp.attach(attached(), LORA, rng=n).parameters()]


@pytest.mark.parametrize("argument", TAKE)
def test_a_whole_number_of_any_kind_is_taken_and_nothing_else(argument):
    call, n = TAKE[argument]
    expected = call(n)
    for kind in WHOLE:
        assert repr(call(kind(n))) == repr(expected), kind
    for kind in BROKEN:
        with pytest.raises(ValueError, match=r"must be|needs|is a|are|in 8 or 4 bits"):
            call(kind(n))


@pytest.mark.parametrize("argument", SEEDS)
def test_a_seed_of_any_kind_is_taken(argument):
    for kind in WHOLE:
        assert SEEDS[argument](kind(3)) == SEEDS[argument](3)


NUMBERS = {
    "temperature": lambda x: written(temperature=x),
    "top_p": lambda x: written(temperature=0.5, top_p=x),
    "repetition_penalty": lambda x: written(repetition_penalty=x),
    "lr": lambda x: fitted(lr=x),
    "clip": lambda x: fitted(clip=x),
    "density": lambda x: (
        mp.combine(attached("a", "b"), ["a", "b"], [1, 2], "ties", density=x).error
    ),
    "weight": lambda x: mp.combine(attached("a", "b"), ["a", "b"], [x, 2]).weights,
    "lora_alpha": lambda x: mp.LoRA(lora_alpha=x),
}


@pytest.mark.parametrize("argument", NUMBERS)
def test_a_number_of_any_kind_is_taken(argument):
    for kind in (np.float64, np.float32, np.array):
        assert NUMBERS[argument](kind(0.5)) == NUMBERS[argument](0.5)


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_of_any_kind_is_taken(flag):
    for kind in FLAGS:
        assert repr(mp.ledger(CONFIG, LORA, seq=3, recompute=kind(flag))) == repr(
            mp.ledger(CONFIG, LORA, seq=3, recompute=flag)
        )
        assert fitted(recompute=kind(flag)) == fitted(recompute=flag)
        assert quantized(double=kind(flag)) == quantized(double=flag)
    for bad in (1, "yes", np.int64(0), None):
        with pytest.raises(ValueError, match="recompute must be True or False"):
            mp.ledger(CONFIG, LORA, seq=3, recompute=bad)


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, np.array])
def test_names_come_in_any_collection(kind):
    names = kind(["a", "b"])
    assert mp.LoRA(target_modules=names).target_modules == ("a", "b")
    net = attached("b", "a")
    mp.use(net, names)
    assert list(mp.in_use(net)) == ["a", "b"]
    assert list(mp.combine(net, names, [1, 2]).weights) == ["a", "b"]
    assert quantized(skip=kind(["q_proj", "lm_head"])) == quantized(skip=("q_proj", "lm_head"))
    if kind not in (set, frozenset):
        mp.use(net, rows=kind(["a", "b", "a"]))
        assert mp.in_use(net)["a"].tolist() == [True, False, True]
        mp.use(net, None)
    assert mp.LoRA(layers_to_transform=kind([0, 1])).layers_to_transform == (0, 1)
    assert mp.generate(net, [[1]] if kind in (set, frozenset) else kind([[1]]), 1)


def values_of(annotation):
    """Values of an annotation, each with the same in NumPy's words."""
    parts, kind = typing.get_args(annotation), typing.get_origin(annotation) or annotation
    if kind is int:
        return [(2, np.int32(2)), (2, np.array(2))]
    if kind is float:
        return [(0.5, np.float32(0.5)), (0.5, np.array(0.5)), (0, np.int8(0))]
    if kind is bool:
        return [(True, np.True_), (False, np.array(False))]
    if kind is tuple:
        n = 2 if Ellipsis not in parts else 3
        return [(tuple([a] * n), [b] * n) for a, b in values_of(parts[0])]
    if kind is dict:
        return [({"q": a}, {np.str_("q"): b}) for a, b in values_of(parts[1])]
    if kind is str:
        return [("q_proj", np.str_("q_proj"))]
    return [pair for part in parts if part is not type(None) for pair in values_of(part)]


@pytest.mark.parametrize("cls", [mp.Config, *mp.METHODS.values()], ids=lambda c: c.__name__)
def test_every_option_takes_numpys_words(cls):
    """Where an option takes a value, it takes the same in NumPy's words, as Python's."""
    sizes = SIZES if cls is mp.Config else {}
    assert issubclass(cls, Options)
    for name, field in cls.__dataclass_fields__.items():
        for python, numpy in values_of(field.type):
            outcomes = []
            for value in (python, numpy):
                try:
                    outcomes.append(repr(cls(**sizes | {name: value})))
                except ValueError as error:
                    outcomes.append(str(error))
            if outcomes[0].startswith(cls.__name__):
                assert outcomes[0] == outcomes[1], name


@given(
    st.recursive(
        st.one_of(st.integers(-9, 9), st.booleans(), st.floats(-9, 9, width=32), st.text("ab")),
        lambda x: st.lists(x, max_size=3).map(tuple),
        max_leaves=6,
    )
)
def test_what_is_converted_is_pythons(value):
    def in_numpy(x):
        if isinstance(x, tuple):
            return [in_numpy(y) for y in x]
        return np.str_(x) if isinstance(x, str) else np.asarray(x)

    assert to_python(value) == value == to_python(in_numpy(value))
    assert repr(to_python(in_numpy(value))) == repr(value)


def test_checks_return_or_refuse():
    assert check_whole(1, a=np.int8(3), b=np.array(4)) == [3, 4]
    assert {type(n) for n in check_whole(1, a=np.int8(3), b=np.array(4))} == {int}
    for bad in (0, np.int64(0), 2.0, True, np.True_, "3", None, [3], np.array([3])):
        with pytest.raises(ValueError, match="n must be a whole number ≥ 1, got"):
            check_whole(1, n=bad)
    check_flag(a=np.True_, b=np.array(False), c=True)


REFUSED = {  # {what: (call, error, its words)}
    "huge alpha": (lambda: mp.LoRA(lora_alpha=10**400), ValueError, "must be a finite number"),
    "huge rank": (
        lambda: mp.attach(attached(), mp.LoRA(r=10**400)), ValueError,
        "is more than .* can use"),
    "huge rank counted": (
        lambda: mp.count(CONFIG, mp.LoRA(r=10**400)), ValueError, "is more than .* can use"),
    "mask of NaN": (
        lambda: attached()([[1, 2]], attention_mask=[[1, np.nan]]), ValueError,
        "attention_mask is 1 at tokens and 0 at padding, got .*nan"),
    "mask of halves": (
        lambda: attached()([[1, 2]], attention_mask=[[1, 0.5]]), ValueError, "got .*0.5"),
    "mask of words": (
        lambda: attached()([[1, 2]], attention_mask=[["no", "yes"]]), ValueError, "got .*no"),
    "ragged mask": (
        lambda: attached()([[1, 2]], attention_mask=[[1], [1, 0]]), ValueError,
        "unequal lengths"),
    "ragged examples": (
        lambda: mp.Examples([[1, 2], [3]], [[1, 2], [3]]), ValueError,
        "rows of ids have unequal lengths"),
    "ragged labels": (
        lambda: mp.Examples([[1, 2]], [[1], [2, 3]]), ValueError, "rows of labels"),
    "no examples": (
        lambda: mp.Task("past").examples("test", 0), ValueError, "limit must be .* got 0"),
    "names and rows": (
        lambda: mp.use(attached("a", "b"), "a", rows=["b"]), ValueError,
        "names, or a name for each of the rows, got 'a' too"),
    "a number for a name": (
        lambda: mp.use(attached("a"), 5), ValueError, "unknown adapter '5'"),
    "count of nothing": (
        lambda: mp.count(3, LORA), TypeError, "a Transformer, a Config or a preset's name"),
    "count of a word": (
        lambda: mp.count(CONFIG, "lora"), TypeError, "such as LoRA.*got .* and 'lora'"),
    "count of no preset": (
        lambda: mp.count("lama-2-7b", LORA), ValueError, "did you mean 'llama-2-7b'"),
    "explain of a Config": (
        lambda: mp.explain(CONFIG, LORA), TypeError,
        "explain takes a model, such as load_base"),
    "explain of a word": (lambda: mp.explain(attached(), "lora"), TypeError, "and 'lora'"),
    "ledger of a name": (
        lambda: mp.ledger("llama-2-7b", LORA), TypeError, "of a Config or a Transformer"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_has_one_clear_sentence(what):
    call, error, words = REFUSED[what]
    with pytest.raises(error, match=words) as found:
        call()
    assert "\n" not in str(found.value)


def test_a_mask_of_zeros_and_ones_is_taken():
    ids, net = [[1, 2, 3]], attached()
    expected = net(ids, attention_mask=[[False, True, True]]).data
    for mask in ([[0, 1, 1]], [[0.0, 1.0, 1.0]], np.array([[0, 1, 1]], "uint8")):
        assert (net(ids, attention_mask=mask).data == expected).all()


def test_a_model_and_a_preset_are_counted():
    net = attached()
    assert mp.count(net, LORA) == mp.count(CONFIG, LORA)
    assert mp.count("llama-2-7b", mp.LoRA(r=16)).trainable == 8_388_608
    assert mp.count(net, LORA).trainable == mp.attach(net, LORA).count


def test_dtype_takes_numpys_types():
    for name in ("float64", np.float64, np.dtype("float64")):
        with mp.dtype(name):
            assert mp.Parameter([1.0]).dtype == "float64"
    for bad in (float, "float16", np.int64, 64):
        with pytest.raises(ValueError, match="is not supported; use 'float32' or 'float64'"):
            with mp.dtype(bad):
                pass


def test_every_public_function_with_a_number_is_tried_here():
    """A new argument with a whole number as its default must be added to TAKE."""
    tried = {argument.split()[-1] for argument in (*TAKE, *SEEDS, *NUMBERS)}
    for name in mp.__all__:
        f = getattr(mp, name)
        if inspect.isfunction(f):
            for argument, p in inspect.signature(f).parameters.items():
                if type(p.default) in (int, float):
                    assert argument in tried, f"{name}({argument}=…)"
