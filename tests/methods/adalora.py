"""AdaLoRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Files, Row, Spec
from strategies import ALPHAS, targets
from theirs import with_peft

PRUNED = "beside AdamW's update, orthogonality adds to the gradient, and weak triplets become 0"


def equation(method, a, w):
    """W + (α / r) P Λ Q"""
    return w + method.lora_alpha / method.init_r * a.lora_B @ np.diag(a.lora_E) @ a.lora_A


@st.composite
def drawn(draw, config):
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


SQUARE = mp.AdaLoRA(init_r=3, target_r=1, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("AdaLoRA: Λ missing in the merge",
        "self.scaling * self.lora_B.data * self.lora_E.data @ self.lora_A.data",
        "self.scaling * self.lora_B.data @ self.lora_A.data", 5, SQUARE),
)  # fmt: skip


def theirs(**options):
    """HF divides by r + 10⁻⁵ so as not to divide by 0; ours by r, as no target has rank 0."""

    def put(model):
        theirs = with_peft("AdaLoraConfig", total_step=20, **options)(model)
        for name, p in theirs.named_parameters():
            if "ranknum" in name:
                p.requires_grad = False
                p.data -= 1e-5
        return theirs

    return put


def before_saving(pair):
    """Give HF's ranks back what `theirs` took off."""
    for name, p in pair.theirs.named_parameters():
        if "ranknum" in name:
            p.data += 1e-5


NAMES = ["k_proj", "o_proj", "gate_proj", "down_proj"]
OPTIONS = dict(init_r=4, target_r=2, tinit=3, tfinal=5, deltaT=2, orth_reg_weight=0.0)
ROWS = {
    "adalora": Row(
        mp.AdaLoRA(**OPTIONS, target_modules=tuple(NAMES)),
        theirs(**OPTIONS, target_modules=NAMES),
        after_step=lambda pair, step: pair.theirs.base_model.update_and_allocate(step),
        files=Files(tensors=1e-5, before=before_saving),  # its λ go by a factor and back
    ),
}


def layout(r):
    """The names and shapes in a file."""
    return {
        f"attn.{name}_proj.{key}": shape
        for name, n in {"q": 8, "v": 4}.items()
        for key, shape in {"lora_A": (r, 8), "lora_B": (n, r), "lora_E": (r, 1)}.items()
    }


SPEC = Spec(
    mp.AdaLoRA,
    draw=drawn,
    small=mp.AdaLoRA(2, 1),
    equation=OnMatrix(equation, rank=lambda method: method.init_r),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.AdaLoRA(4, 2), COUNTED, 2 * (4 * 16 + 4 + 4 * 12 + 4)),),
    saved=((mp.AdaLoRA(2, 1), layout(2)), (mp.AdaLoRA(3, 2), layout(3))),
    wrong=(
        lambda: mp.AdaLoRA(2, 3),
        lambda: mp.AdaLoRA(beta1=1.0),
        lambda: mp.AdaLoRA(tinit=-1),
        lambda: mp.AdaLoRA(deltaT=0),
        lambda: mp.AdaLoRA(orth_reg_weight=-0.5),
    ),
    exempt={16: PRUNED},
    exchanged=True,
    exchange_limit=1e-6,  # its λ go by a factor and back
)
