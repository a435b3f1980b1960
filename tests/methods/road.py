"""RoAd."""

from hypothesis import assume
from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, GPT2, LLAMA_7B, Bug, Row, Spec
from strategies import targets
from theirs import with_peft


def rotation(method, a, n):
    """R (n, n), pair by pair as the paper writes it."""
    k, half = int(method.variant[-1]), method.group_size // 2
    angles, lengths = (v.reshape(-1, k, half) for v in (a.road_theta, a.road_alpha))
    matrix = np.zeros((n, n))
    for group in range(n // method.group_size):
        for i in range(half):
            # of the four elements: the θ and α of 11, 22, 12, 21 in this order
            theta, alpha = angles[group, :, i], lengths[group, :, i]
            theta, alpha = (np.resize(v, 4) for v in (theta, alpha))
            one = group * method.group_size + i
            two = one + half
            matrix[one, one] = alpha[0] * np.cos(theta[0])
            matrix[two, two] = alpha[1] * np.cos(theta[1])
            matrix[one, two] = -alpha[2] * np.sin(theta[2])
            matrix[two, one] = alpha[3] * np.sin(theta[3])
    return matrix


def equation(method, a, w):
    """R W"""
    return rotation(method, a, len(w)) @ w


def bias(method, a, b):
    """R b"""
    return rotation(method, a, len(b)) @ b


@st.composite
def drawn(draw, config):
    """A RoAd of any variant, in groups of a few outputs."""
    names, _ = draw(targets(config))
    group = 2 * draw(st.integers(1, 3))
    method = mp.RoAd(draw(st.sampled_from(["road_1", "road_2", "road_4"])), group, names)
    assume(all(n % group == 0 for n, _ in method.targets(config.target_shapes).values()))
    return method


SQUARE = mp.RoAd("road_2", 4, ("q_proj", "o_proj"))
BUGS = (
    Bug("RoAd: turns the other way", "[-halves[..., 1:, :], halves[..., :1, :]]",
        "[halves[..., 1:, :], -halves[..., :1, :]]", 13, SQUARE),
    Bug("RoAd: bias not turned in the merge", "self.turned(Tensor(bias.data)).data",
        "bias.data", 5, mp.RoAd(), GPT2),
    Bug("RoAd: the slope of the cosine has the wrong sign", "-g * xp.sin(a)", "g * xp.sin(a)",
        4, SQUARE),
)  # fmt: skip


def row(variant, group, names=("q_proj", "v_proj", "up_proj"), **more):
    """The method here and in HF PEFT."""
    hf = dict(variant=variant, group_size=group, target_modules=list(names))
    return Row(mp.RoAd(variant, group, names), with_peft("RoadConfig", **hf), **more)


SPEC = Spec(
    mp.RoAd,
    draw=drawn,
    small=mp.RoAd(),
    equation=OnMatrix(equation, bias),
    bugs=BUGS,
    rows={
        "road": row("road_1", 2, ("q_proj", "v_proj")),
        "road, 2": row("road_2", 4, ("q_proj", "o_proj"), recorded=False),
        "road, 4": row("road_4", 12, ("q_proj", "o_proj"), recorded=False),
    },
    counts=(
        (mp.RoAd(), COUNTED, 2 * (8 + 4)),
        (mp.RoAd("road_4", 4), COUNTED, 2 * 4 * (8 + 4)),
        (mp.RoAd(target_modules="all-linear"), LLAMA_7B, 32 * (5 * 4096 + 2 * 11008)),
    ),
    saved=(
        (
            mp.RoAd("road_2"),
            {
                f"attn.{name}_proj.road_{part}": (n,)
                for name, n in {"q": 8, "v": 4}.items()
                for part in ("theta", "alpha")
            },
        ),
    ),
    wrong=(
        lambda: mp.RoAd("road_3"),
        lambda: mp.RoAd(group_size=3),
        lambda: mp.RoAd(group_size=0),
    ),
    exchanged=True,
)
