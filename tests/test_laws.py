"""Every method keeps every law, over drawn sizes, ranks, targets and both shapes."""

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import minipeft as mp
from exemptions import EXEMPT
from laws import LAWS, Case
from strategies import configs

ALPHAS = st.sampled_from([0.5, 1.0, 3.0])


@st.composite
def targets(draw, config, tables=("lm_head",), least=1):
    """(names, most) that a method may have: one to three kinds of matrix by name, or all.

    `most` is the largest rank that all of them can have; it is at least `least`.
    """
    ranks = {}  # {name: the largest rank of such a matrix}
    for path, shape in config.matrices.items():
        name = path.split(".")[-1]
        ranks[name] = min(*shape, ranks.get(name, min(shape)))
    inner = min(rank for name, rank in ranks.items() if name not in ("wte", "lm_head"))
    some = [n for n, rank in ranks.items() if rank >= least and (n != "wte" or n in tables)]
    assume(some)
    lists = st.lists(st.sampled_from(some), min_size=1, max_size=3, unique=True).map(tuple)
    names = draw(lists if inner < least else st.one_of(st.just("all-linear"), lists))
    return names, inner if names == "all-linear" else min(map(ranks.get, names))


@st.composite
def low_rank(draw, config, method=mp.LoRA, tables=("lm_head",), share=1):
    """A LoRA of any rank that its targets allow, with dropout, which evaluation must not do."""
    names, most = draw(targets(config, tables, share))
    return method(
        r=draw(st.integers(1, most // share)),
        lora_alpha=draw(ALPHAS),
        lora_dropout=draw(st.sampled_from([0.0, 0.3])),
        target_modules=names,
    )


@st.composite
def adalora(draw, config):
    """An AdaLoRA that shrinks, in a run of 8 steps, for at least one of them."""
    names, most = draw(targets(config))
    r = draw(st.integers(1, most))
    return mp.AdaLoRA(
        init_r=r,
        target_r=draw(st.integers(1, r)),
        lora_alpha=draw(ALPHAS),
        target_modules=names,
        tinit=draw(st.integers(0, 3)),
        tfinal=draw(st.integers(0, 4)),
        deltaT=draw(st.integers(1, 3)),
    )


@st.composite
def products(draw, config, method):
    """A LoHa or LoKr of a small rank."""
    names, most = draw(targets(config))
    return method(draw(st.integers(1, most)), draw(ALPHAS), names)


@st.composite
def vera(draw, config):
    """A VeRA of any rank, also larger than its matrices."""
    names, _ = draw(targets(config))
    return mp.VeRA(draw(st.integers(1, 20)), names, draw(st.sampled_from([0.0, 0.3])))


@st.composite
def ia3(draw, config):
    """An (IA)³ on any matrices, inside some of them."""
    names, _ = draw(targets(config))
    inside = () if names == "all-linear" else draw(st.sets(st.sampled_from(names)).map(tuple))
    return mp.IA3(names, inside)


def bitfit(config):
    """BitFit, where there are biases."""
    return st.builds(mp.BitFit).filter(lambda _: config.bias or config.norm == "layer")


NARROW, FEW = st.integers(1, 5), st.integers(1, 3)
PHI = st.sampled_from(["relu", "gelu", "silu"])
STYLE = st.sampled_from(["houlsby", "pfeiffer"])


def compacter(config):
    """Compacters whose number of blocks divides both sides of their matrices."""
    divisors = [n for n in range(1, config.width + 1) if config.width % n == 0]
    return st.sampled_from(divisors).flatmap(
        lambda n: st.builds(
            mp.Compacter, m=FEW.map(lambda k: k * n), phm_dim=st.just(n), style=STYLE
        )
    )


DRAWN = {  # {method: what its hyper-parameters are drawn from, given a Config}
    "full": lambda config: st.just(mp.Full()),
    "bitfit": bitfit,
    "norms": lambda config: st.just(mp.NormTuning()),
    "last-k": lambda config: st.builds(mp.LastK, st.integers(1, config.layers)),
    "head": lambda config: st.just(mp.Head()),
    "lora": lambda config: low_rank(config, tables=("lm_head", "wte")),
    "rslora": lambda config: low_rank(config, mp.RSLoRA, tables=("lm_head", "wte")),
    "lora+": lambda config: low_rank(config, mp.LoRAPlus),
    "pissa": lambda config: low_rank(config, mp.PiSSA, share=2),
    "dora": lambda config: low_rank(config, mp.DoRA),
    "vera": vera,
    "adalora": adalora,
    "loha": lambda config: products(config, mp.LoHa),
    "lokr": lambda config: products(config, mp.LoKr),
    "ia3": ia3,
    "adapter": lambda config: st.builds(mp.Bottleneck, m=NARROW, style=STYLE, nonlinearity=PHI),
    "pfeiffer": lambda config: st.builds(mp.Pfeiffer, m=NARROW, nonlinearity=PHI),
    "parallel": lambda config: st.builds(mp.Parallel, m=NARROW, nonlinearity=PHI),
    "compacter": compacter,
    "prefix": lambda config: st.builds(
        mp.Prefix,
        num_virtual_tokens=FEW,
        prefix_projection=st.booleans(),
        encoder_hidden_size=FEW,
    ),
    "prompt": lambda config: st.builds(
        mp.Prompt, num_virtual_tokens=FEW, init_ids=st.sampled_from([None, (1, 4)])
    ),
    "p-tuning": lambda config: st.builds(mp.PTuning, num_virtual_tokens=FEW),
    "llama-adapter": lambda config: st.builds(
        mp.LlamaAdapter,
        adapter_len=FEW,
        adapter_layers=st.sampled_from([None, 1]),
        per_head=st.booleans(),
    ),
}


@st.composite
def cases(draw, name, shape):
    """A Case of a method."""
    config = draw(configs((shape,)))
    assume(config.width > 2)  # the norm of one number is constant, of two a step: no slope
    method, seed = draw(DRAWN[name](config)), draw(st.integers(0, 99))
    rows, tokens = draw(st.integers(1, 3)), draw(st.sampled_from([4, 5, 2, 1]))
    return Case(config, method, seed, rows=rows, tokens=tokens)


def test_every_method_is_drawn():
    assert DRAWN.keys() == mp.METHODS.keys()


EXAMPLES = {"dev": 2, "ci": 2, "thorough": 20}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("name", mp.METHODS)
def test_law(name, shape, law, request):
    """A law holds for a method; or it does not, and the exemption says why."""
    exempt = (law, name) in EXEMPT
    count = EXAMPLES[request.config.getoption("--profile")] + 10 * exempt
    phases = [Phase.generate] if exempt else list(Phase)  # what must fail need not be shrunk

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), phases=phases)
    @given(cases(name, shape))
    def check(case):
        LAWS[law](case)

    if exempt:
        with pytest.raises((AssertionError, ValueError)):
            check()
    else:
        check()


def test_exemptions_name_what_exists():
    assert all(law in LAWS and name in mp.METHODS for law, name in EXEMPT)
    assert all(len(reason) > 20 for reason in EXEMPT.values())
