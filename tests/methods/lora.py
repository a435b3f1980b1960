"""LoRA."""

from dataclasses import replace

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from spec import COUNTED, GPT3, LLAMA_7B, Bug, Files, Row, Spec
from strategies import ALPHAS, DROPOUTS, targets
from theirs import CONV1D, QV, with_peft


def changed(scale, a, w):
    """W + s B A, or on the table W + (s B A)ᵀ."""
    if hasattr(a, "lora_embedding_A"):
        return w + scale * (a.lora_embedding_B @ a.lora_embedding_A).T
    return w + scale * a.lora_B @ a.lora_A


def equation(method, a, w):
    """W + (α / r) B A"""
    return changed(method.lora_alpha / method.r, a, w)


@st.composite
def low_rank(draw, config, method=mp.LoRA, tables=("lm_head",), share=1):
    """A LoRA of any rank that its targets allow."""
    names, most = draw(targets(config, tables, share))
    return method(
        r=draw(st.integers(1, most // share)),
        lora_alpha=draw(ALPHAS),
        lora_dropout=draw(DROPOUTS),
        target_modules=names,
    )


@st.composite
def with_copies(draw, config):
    """A LoRA, or one beside which biases or whole modules train."""
    method = draw(low_rank(config, tables=("lm_head", "wte")))
    more = [{}, {}, {"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ("ln_f",)}]
    if not {"lm_head", "wte"} & {*method.target_modules} and method.target_modules != "all":
        more.append({"modules_to_save": ("lm_head", "0.ln_1")})
    return replace(method, **draw(st.sampled_from(more)))


SQUARE = mp.LoRA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
TABLE = mp.LoRA(r=2, lora_alpha=3.0, target_modules=("wte",))
BUGS = (
    Bug("LoRA: A and B swapped",
        "return self.scaling * (self.lora_B.data @ self.lora_A.data)",
        "return self.scaling * (self.lora_A.data.T @ self.lora_B.data.T)", 5, SQUARE),
    Bug("LoRA: α / r missing", "return self.lora_alpha / self.r", "return 1.0", 13, SQUARE),
    Bug("LoRA: α / r missing in the forward pass only",
        "linear(self.dropout(x), self.lora_A) * self.scaling",
        "linear(self.dropout(x), self.lora_A)", 5, SQUARE),
    Bug("LoRA: merge transposed", "weight(layer).data + self.change()",
        "weight(layer).data + self.change().T", 5, SQUARE),
    Bug("LoRA: B does not start at zero", "Parameter(np.zeros((n_out, method.r)))",
        "Parameter(np.full((n_out, method.r), 0.01))", 1, SQUARE),
    Bug("LoRA: the count forgets B",
        'return self.per_matrix, {"out": n_out, "in": n_in, "r": getattr(self, "r", 0)}',
        'return self.per_matrix, {"out": 0, "in": n_in, "r": getattr(self, "r", 0)}',
        3, SQUARE, module="peft.targets"),
    Bug("LoRA on the token table: α / r missing in the merge",
        "change = self.scaling * (self.lora_embedding_B.data @ self.lora_embedding_A.data)",
        "change = self.lora_embedding_B.data @ self.lora_embedding_A.data", 5, TABLE),
)  # fmt: skip

ROWS = {
    "lora": Row(
        mp.LoRA(r=3, lora_alpha=6.0),
        with_peft("LoraConfig", r=3, lora_alpha=6, target_modules=QV),
    ),
    "lora, all-linear, patterns": Row(
        mp.LoRA(
            r=4,
            target_modules="all-linear",
            rank_pattern={"down_proj": 2, r"blocks\.1\.attn.*": 3},
            alpha_pattern={"up_proj": 5.0},
        ),
        with_peft(
            "LoraConfig",
            r=4,
            target_modules="all-linear",
            rank_pattern={"down_proj": 2, r"layers\.1\.self_attn.*": 3},
            alpha_pattern={"up_proj": 5},
        ),
        recorded=False,
    ),
    "lora, GPT-2": Row(
        mp.LoRA(r=3, target_modules=("o_proj", "up_proj", "down_proj")),
        with_peft("LoraConfig", r=3, target_modules=["c_proj", "c_fc"], **CONV1D),
        "gpt2",
        tied=True,
    ),
    "lora, tables": Row(
        mp.LoRA(r=3, target_modules=("wte", "lm_head")),
        with_peft("LoraConfig", r=3, target_modules=["embed_tokens", "lm_head"]),
        files=Files(beside=("base_layer",)),  # the tables themselves
        recorded=False,
    ),
}

QKVO, FIVE = (
    tuple(f"{name}_proj" for name in names)
    for names in (("q", "k", "v", "o"), ("q", "k", "v", "up", "down"))
)
FACTORS = {  # the names of B A in a file, on the default targets
    "attn.q_proj.lora_A.weight": (2, 8),
    "attn.q_proj.lora_B.weight": (8, 2),
    "attn.v_proj.lora_A.weight": (2, 8),
    "attn.v_proj.lora_B.weight": (4, 2),
}
ON_TABLES = {
    "wte.lora_embedding_A": (2, 11),
    "wte.lora_embedding_B": (8, 2),
    "lm_head.lora_A.weight": (2, 8),
    "lm_head.lora_B.weight": (11, 2),
}

SPEC = Spec(
    mp.LoRA,
    draw=with_copies,
    small=mp.LoRA(2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.LoRA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),
        (mp.LoRA(2, rank_pattern={"v_proj": 1}), COUNTED, 2 * (2 * 16 + 1 * 12)),
        (
            mp.LoRA(1, target_modules="all-linear"),
            COUNTED,
            2 * (16 + 12 + 12 + 16 + 14 + 14),
        ),
        (mp.LoRA(1), GPT3, 4_718_592),  # Hu et al., table 4: 4.7 M
        (mp.LoRA(2, target_modules=QKVO), GPT3, 18_874_368),
        (mp.LoRA(32, target_modules=FIVE), LLAMA_7B, 56_098_816),  # Liu et al.: 0.83 %
    ),
    saved=(
        (mp.LoRA(2), FACTORS),
        (mp.LoRA(2, target_modules=("wte", "lm_head")), ON_TABLES),
    ),
    wrong=(
        lambda: mp.LoRA(0),
        lambda: mp.LoRA(2.0),
        lambda: mp.LoRA(lora_alpha=float("nan")),
        lambda: mp.LoRA(rank_pattern={"q_proj": 0}),
        lambda: mp.LoRA(alpha_pattern={"q_proj": float("inf")}),
        lambda: mp.LoRA(target_modules=7),
        lambda: mp.LoRA(layers_to_transform="first"),
        lambda: mp.LoRA(rank_pattern=7),
        lambda: mp.LoRA(rank_pattern={0: 7}),
    ),
    exchanged=True,
)
