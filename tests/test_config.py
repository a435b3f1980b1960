"""The Config: what it says of its model, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np
from minipeft.model.config import CHOICES
from minipeft.model.layers import Linear
from minipeft.peft.base import Method
from strategies import configs

seeds = st.integers(0, 2**32 - 1)
SMALL = dict(vocab=7, context=8, width=4, layers=3, heads=2)


@st.composite
def mixed_configs(draw):
    """A Config with any choice beside any other, not only GPT-2's and Llama's."""
    config = draw(configs())
    pick = {name: draw(st.sampled_from(options)) for name, options in CHOICES.items()}
    if config.rotary_width % 2:
        pick["position"] = "learned"
    pick |= dict(norm_eps=draw(st.sampled_from([1e-5, 0.1])), bias=draw(st.booleans()))
    return config.with_(rope_theta=draw(st.sampled_from([1e4, 7.0])), **pick)


@given(mixed_configs())
def test_a_config_knows_its_model(config):
    net = mp.Transformer(config, 0)
    assert config.size == sum(p.data.size for p in net.parameters())
    assert config.parameter_shapes == {path: p.shape for path, p in net.named_parameters()}
    shapes = {path: m.weight.shape for path, m in net.named_modules() if isinstance(m, Linear)}
    assert config.linear_shapes == shapes
    assert mp.Config.from_dict(vars(config)) == config


@given(configs(), seeds)
def test_a_seed_gives_the_same_weights(config, seed):
    one, two, other = (mp.Transformer(config, s).parameters() for s in (seed, seed, seed + 1))
    assert all((a.data == b.data).all() for a, b in zip(one, two, strict=True))
    assert any((a.data != b.data).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", [mp.Config.gpt2, mp.Config.llama])
def test_initial_weights_have_their_spread(shape):
    config = shape(**SMALL | dict(width=64, vocab=50, context=50), init_std=0.1)
    for path, p in mp.Transformer(config, 0).named_parameters():
        if p.ndim == 1:
            assert (p.data == (0.0 if path.endswith("bias") else 1.0)).all()
        else:  # what is added to the stream is smaller: it is added 2 · layers times
            ends = path.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.1 / 6**0.5 if ends else 0.1
            assert float(p.data.std()) == pytest.approx(std, rel=0.08), path
            assert abs(float(p.data.mean())) < 0.02


def test_what_is_left_out_follows_from_the_rest():
    config = mp.Config.gpt2(**SMALL)
    assert (config.kv_heads, config.ffn, config.head_width) == (2, 16, 2)
    assert (config.norm, config.position, config.mlp) == ("layer", "learned", "gelu")
    assert config.bias and config.tied
    config = mp.Config.llama(**SMALL)
    assert (config.norm, config.position, config.mlp) == ("rms", "rope", "swiglu")
    assert not config.bias and not config.tied
    assert mp.Config.llama(**SMALL, tied=True).tied


NOT_SIZES = [0, -1, 1.5, "4", True, float("nan")]
BAD_FIELDS = [
    *((name, size) for name in ("vocab", "context", "width", "layers") for size in NOT_SIZES),
    *((name, size) for name in ("heads", "kv_heads", "ffn") for size in NOT_SIZES),
    *((name, None) for name in ("vocab", "context", "width", "layers", "heads")),
    *(("heads", 3), ("kv_heads", 3)),  # no divisors
    *(("norm", "layr"), ("position", "ropes"), ("mlp", "swigl"), ("norm", None)),
    *(("bias", 1), ("tied", "yes"), ("bias", None)),
    *((name, "0.1") for name in ("dropout", "norm_eps", "rope_theta", "init_std")),
    *((name, float("nan")) for name in ("dropout", "norm_eps", "rope_theta", "init_std")),
    *((name, -0.1) for name in ("dropout", "norm_eps", "rope_theta", "init_std")),
    *((name, 0) for name in ("head_width", "window", "rotary", "attention_scale")),
    *(("rotary", 1.5), ("qk_norm", 1), ("parallel", None), ("qkv_bias", "no")),
    *(("nope", (3,)), ("nope", (-1,)), ("rope_scaling", (8.0, 4.0, 4.0, 6.0))),
    *(("rope_scaling", (8.0, 1.0)), ("logits_scale", 0.0), ("logits_scale", None)),
    *(("dropout", 1.0), ("norm_eps", 1), ("rope_theta", 0.5), ("init_std", float("inf"))),
]


@pytest.mark.parametrize("name, value", BAD_FIELDS)
def test_a_config_refuses_what_no_model_can_have(name, value):
    for shape in (mp.Config.gpt2, mp.Config.llama):
        with pytest.raises(ValueError) as error:
            shape(**SMALL | {name: value})
        assert name in str(error.value) and str(value) in str(error.value)


def test_rope_needs_pairs():
    with pytest.raises(ValueError, match="pairs, but rotary · head_width = 3;"):
        mp.Config.llama(**SMALL | dict(width=6))
    mp.Config.gpt2(**SMALL | dict(width=6))


def test_choices_and_keys_are_suggested():
    with pytest.raises(ValueError, match="'layr'; did you mean 'layer'"):
        mp.Config(**SMALL, norm="layr")
    with pytest.raises(ValueError, match="config key 'widht'; did you mean 'width'"):
        mp.Config.from_dict(SMALL | {"widht": 4})
    with pytest.raises(ValueError, match="no 'heads', which has no default"):
        mp.Config.from_dict({k: v for k, v in SMALL.items() if k != "heads"})


def test_an_unknown_key_is_named_with_its_neighbours():
    config = mp.Config(**SMALL)
    for make in (mp.Config, mp.Config.gpt2, lambda **k: mp.Config.from_dict(k), config.with_):
        with pytest.raises(ValueError, match="unknown config key 'contxt'; did you mean"):
            make(**SMALL | dict(contxt=8))


@pytest.mark.parametrize("method", mp.METHODS.values())
def test_an_unknown_option_of_a_method_is_named(method):
    for make in (method, lambda **options: method.from_dict(options)):
        with pytest.raises(ValueError, match=f"unknown option of {method.__name__} 'rnak'"):
            make(rnak=8)
    with pytest.raises(ValueError, match="'rank_patern'; did you mean 'rank_pattern'"):
        mp.LoRA(r=4, rank_patern={})


def test_a_method_may_have_an_init_of_its_own():
    class Plain(Method):
        pass

    class Half(mp.LoRA):
        def __init__(self, whole):
            super().__init__(r=whole // 2)

    assert isinstance(Plain(), Method) and Half(whole=8).r == 4


def test_numbers_of_numpy_are_numbers():
    method = mp.Prompt(np.int64(3), init_ids=np.array([1, 2]))
    assert method == mp.Prompt(3, init_ids=(1, 2)) and type(method.num_virtual_tokens) is int
    assert mp.LoRA(np.int32(4), np.float32(2)) == mp.LoRA(4, 2.0)
    with pytest.raises(ValueError, match=r"r must be a whole number ≥ 1, got 4\.0"):
        mp.LoRA(np.float32(4))
