"""Poly, and multi-head routing."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Row, Spec
from strategies import FEW, targets
from theirs import QV, of_task, prompt_learning


def equation(method, a, w):
    """W + B A / r, A and B sums of the skills' weighted by σ(Z) / Σ σ(Z), split by split"""
    splits, skills, part_in, r = a.poly_lora_A.shape
    use = 1.0 / (1.0 + np.exp(-a.module_logits[method.task].reshape(splits, skills)))
    use = use / use.sum(axis=1, keepdims=True)
    part_out, change = a.poly_lora_B.shape[-1], np.zeros(w.shape)
    for i in range(splits):
        b = sum(u * b.T for u, b in zip(use[i], a.poly_lora_B[i], strict=True))
        for j in range(splits):
            down = sum(u * a.T for u, a in zip(use[j], a.poly_lora_A[j], strict=True))
            rows = slice(i * part_out, (i + 1) * part_out)
            change[rows, j * part_in : (j + 1) * part_in] = b @ down / r
    return w + change


@st.composite
def skills(draw, config):
    """A Poly of one to three tasks and skills, in one or two splits if the sizes allow."""
    names, most = draw(targets(config))
    tasks, splits = draw(FEW), draw(st.integers(1, 2))
    method = mp.Poly(
        draw(st.integers(1, most)),
        names,
        tasks,
        draw(FEW),
        splits,
        draw(st.integers(0, tasks - 1)),
    )
    sizes = method.targets(config.target_shapes).values()
    assume(all(n % splits == 0 for shape in sizes for n in shape))
    return method


SQUARE = mp.Poly(2, ("q_proj", "o_proj"), n_tasks=2, n_skills=3, task=1)
SPLIT = mp.Poly(2, ("q_proj", "o_proj"), n_skills=3, n_splits=2)
BUGS = (
    Bug("Poly: the weights of another task", "self.module_logits[self.task]",
        "self.module_logits[0]", 13, SQUARE),
    Bug("Poly: weights that do not add up to 1",
        "w = w / (w.sum(axis=1, keepdims=True) + 1e-12)", "w = w / w.shape[1]", 13, SQUARE),
    Bug("Poly: the output's splits interleaved", "b.transpose(0, 2, 1).reshape(-1, r)",
        "b.transpose(2, 0, 1).reshape(-1, r)", 13, SPLIT),
    Bug("Poly: 1 / r missing in the merge", "weight(layer).data + b @ a / len(a)",
        "weight(layer).data + b @ a", 5, SQUARE),
)  # fmt: skip


def theirs(task, **options):
    """HF PEFT's Poly, for a task."""
    put = prompt_learning("PolyConfig", **options)
    return lambda model: of_task(task)(put(model))


def routers(*names):
    """HF PEFT's names for the logits in these matrices."""
    here = "blocks.{}.attn.{}.module_logits"
    there = "model.layers.{}.self_attn.{}.poly_router.module_logits"
    return {here.format(i, n): there.format(i, n) for i in range(2) for n in names}


ROWS = {
    "poly": Row(
        mp.Poly(3, n_tasks=2),
        theirs(0, r=3, target_modules=QV, n_tasks=2),
        names=routers(*QV),
        opened=of_task(0),
        merged=False,
    ),
    "poly, heads": Row(
        mp.Poly(3, ("q_proj", "o_proj"), n_skills=3, n_splits=2),
        theirs(0, r=3, target_modules=["q_proj", "o_proj"], n_skills=3, n_splits=2),
        names=routers("q_proj", "o_proj"),
        opened=of_task(0),
        merged=False,
        recorded=False,
    ),
}


def layout(r, skills):
    """The names and shapes in a file."""
    found = {}
    for name, n_out in (("q", 8), ("v", 4)):
        found |= {
            f"attn.{name}_proj.poly_lora_A": (1, skills, 8, r),
            f"attn.{name}_proj.poly_lora_B": (1, skills, r, n_out),
            f"attn.{name}_proj.poly_router.module_logits": (1, skills),
        }
    return found


SPEC = Spec(
    mp.Poly,
    draw=skills,
    small=mp.Poly(2, n_skills=2),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows=ROWS,
    counts=(
        (mp.Poly(2), COUNTED, 2 * (4 * 2 * (16 + 12) + 2 * 4)),
        (SPLIT, COUNTED, 2 * 2 * (3 * 2 * 16 + 2 * 3)),
        (SQUARE, COUNTED, 2 * 2 * (3 * 2 * 16 + 2 * 3)),
    ),
    saved=((mp.Poly(2, n_skills=3), layout(2, 3)),),
    wrong=(
        lambda: mp.Poly(0),
        lambda: mp.Poly(n_skills=0),
        lambda: mp.Poly(n_tasks=2, task=2),
        lambda: mp.Poly(2, n_splits=3).count(COUNTED),
    ),
    exchanged=True,
)
