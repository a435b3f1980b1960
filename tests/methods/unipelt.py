"""UniPELT."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import affine, agrees, changes
from methods.bottleneck import inner
from methods.prefix import NO_NEUTRAL
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import Tensor, value
from minipeft.model.kv_cache import MASKED
from spec import COUNTED, Bug, Spec
from strategies import ALPHAS, FEW, NARROW, NONLINEARITIES


def gate(part, x):
    """σ(w · x + b) of each token"""
    w, b = (to_numpy(p.data) for p in (part.gate.weight, part.gate.bias))
    return 1.0 / (1.0 + np.exp(-(x @ w[0] + b[0])))[..., None]


def lora(method, a, part, f, x):
    """f(x) + g (α / r) B A x"""
    scale = method.lora_alpha / method.r
    return f(x) + gate(part, x) * scale * (x @ a.lora_A.T @ a.lora_B.T)


def adapter(method, a, part, f, x):
    """h + g (U φ(D h + b₁) + b₂), g of what the MLP reads"""
    return f(x) + gate(part, x) * inner(method, a, f(x))


def attention(method, a, part, q, k, v):
    """Head by head, query by query: softmax over the prefix times g and the tokens so far"""
    out = np.zeros(q.shape)
    shared = q.shape[1] // k.shape[1]
    for row, h, t in np.ndindex(q.shape[:3]):
        g = gate(part, q[row, :, t].reshape(-1))
        keys, values = (
            np.concatenate([g * own[h // shared], tokens[row, h // shared, : t + 1]])
            for own, tokens in ((a.prefix_keys, k), (a.prefix_values, v))
        )
        scores = np.exp(keys @ q[row, h, t] / np.sqrt(q.shape[-1]))
        out[row, h, t] = scores @ values / scores.sum()
    return out


class InEveryLayer:
    """The three equations, each at its place."""

    def check(self, case, net, adapter_):
        modules, rng = dict(net.named_modules()), np.random.default_rng(case.seed)
        config, method = case.config, case.method
        x = rng.standard_normal((2, 3, config.width))
        assert len(adapter_.deltas) == 4 * config.layers
        for path, part, arrays in changes(adapter_):
            if path.endswith("attend"):
                heads = config.heads, config.kv_heads, config.kv_heads
                q, k, v = (rng.standard_normal((2, n, 3, config.head_width)) for n in heads)
                mask = np.triu(np.full((3, 3), MASKED), 1)
                f, found = modules[path].forward, [Tensor(xp.asarray(y)) for y in (q, k, v)]
                found = part(f, *found, xp.asarray(mask))
                wanted = attention(method, arrays, part, q, k, v)
            elif path.endswith("mlp"):
                found = part(lambda x: Tensor(xp.sin(value(x))), Tensor(xp.asarray(x)))
                wanted = adapter(method, arrays, part, np.sin, x)
            else:
                found = modules[path](xp.asarray(x))
                wanted = lora(method, arrays, part, affine(modules[path]), x)
            agrees(found, wanted, part, path)


@st.composite
def drawn(draw, config):
    """A UniPELT of any rank that queries and values allow."""
    shapes = [
        s for path, s in config.target_shapes.items() if path[-6:] in ("q_proj", "v_proj")
    ]
    rank = draw(st.integers(1, min(n for shape in shapes for n in shape)))
    return mp.UniPELT(draw(FEW), draw(NARROW), rank, draw(ALPHAS), draw(NONLINEARITIES))


SMALL = mp.UniPELT(2, 3, 2, 3.0, "gelu")
BUGS = (
    Bug("UniPELT: the gate of LoRA missing", "self.gate(x) * self.scaling",
        "self.scaling", 13, SMALL),
    Bug("UniPELT: the adapter's gate reads its output", "self.change(h) * self.gate(x)",
        "self.change(h) * self.gate(h)", 13, SMALL),
    Bug("UniPELT: the prefix's values not gated",
        "f(q, k, v, mask) * (1.0 - share) + added * gate",
        "f(q, k, v, mask) * (1.0 - share) + added", 13, SMALL),
    Bug("UniPELT: the prefix takes no attention from the tokens",
        "f(q, k, v, mask) * (1.0 - share)", "f(q, k, v, mask)", 13, SMALL),
)  # fmt: skip


def layout(n, m, r):
    """The names and shapes in a file."""
    lora_ = {
        f"attn.{name}_proj.lora_{end}": shape
        for name, rows in (("q", 8), ("v", 4))
        for end, shape in (("A", (r, 8)), ("B", (rows, r)))
    }
    mlp = {"down": (m, 8), "down_bias": (m,), "up": (8, m), "up_bias": (8,)}
    prefix = {f"attn.prefix_{part}": (2, n, 2) for part in ("keys", "values")}
    gates = {
        f"{path}.gate.{end}": shape
        for path in ("attn.attend", "attn.q_proj", "mlp")
        for end, shape in (("weight", (1, 8)), ("bias", (1,)))
    }
    return lora_ | {f"mlp.{name}": shape for name, shape in mlp.items()} | prefix | gates


ONE_LAYER = 2 * 3 * 4 + (2 * 2 * 8 + 2 + 8) + 1 * (16 + 12) + 3 * 9
SPEC = Spec(
    mp.UniPELT,
    draw=drawn,
    small=SMALL,
    equation=InEveryLayer(),
    bugs=BUGS,
    no_rows="HF PEFT does not have it; the tests do not depend on AdapterHub's library",
    counts=((mp.UniPELT(3, 2, 1), COUNTED, 2 * ONE_LAYER),),
    saved=((mp.UniPELT(3, 2, 1), layout(3, 2, 1)),),
    wrong=(
        lambda: mp.UniPELT(0),
        lambda: mp.UniPELT(m=0),
        lambda: mp.UniPELT(nonlinearity="tanh"),
    ),
    exempt={1: NO_NEUTRAL},
)
