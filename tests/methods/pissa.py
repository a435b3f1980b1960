"""PiSSA."""

import minipeft as mp
from laws.equations import OnMatrix
from methods.lora import changed, low_rank
from minipeft.engine.backend import np
from spec import COUNTED, Bug, Files, Row, Spec

ROUNDING = "W is split into two parts, which add up to W but for rounding"


def equation(method, a, w):
    """W − (its best part of rank r) + (α / r) B A"""
    u, s, v = np.linalg.svd(w, full_matrices=False)
    r = method.r
    return changed(method.lora_alpha / r, a, w - (u[:, :r] * s[:r]) @ v[:r])


SQUARE = mp.PiSSA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("PiSSA: the principal part not taken off W",
        "self.a0[...], self.minus_b0[...] = a, -b",
        "self.a0[...], self.minus_b0[...] = a, 0.0 * b", 13, SQUARE),
    Bug("PiSSA: saved as if the base were the residual",
        'return {"lora_A": a.data, "lora_B": b.data}',
        'return {"lora_A": a.data[: len(a) // 2], "lora_B": b.data[:, : len(a) // 2]}',
        8, SQUARE),
)  # fmt: skip


def theirs(init="pissa", prepare=lambda model, config: None, **options):
    """HF starts from W in float32 only: here the base is W − s B₀ A₀ of its A₀ and B₀."""

    def put(model):
        import peft

        double = model.dtype
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = peft.LoraConfig(init_lora_weights=init, **options)
        prepare(model, config)
        theirs = peft.get_peft_model(model.float(), config).to(double)
        for path, module in theirs.base_model.model.named_modules():
            if isinstance(module, peft.tuners.lora.Linear):
                change = module.get_delta_weight("default").detach()
                module.base_layer.weight.data = weights[f"{path}.weight"] - change
            elif f"{path}.weight" in weights:
                module.weight.data = weights[f"{path}.weight"]
        return theirs

    return put


def carry(pair):
    """B₀ and A₀, from the B and A that HF's begins with."""
    for delta in pair.adapter.deltas.values():
        delta.begin(delta.lora_B.data.copy(), delta.lora_A.data.copy())


def converted(pair, folder):
    """HF's file for the base as it was: it subtracts A₀ and B₀, saved before training."""
    start = {f"{path}.lora_A": delta.a0 for path, delta in pair.adapter.deltas.items()}
    start |= {f"{path}.lora_B": -delta.minus_b0 for path, delta in pair.adapter.deltas.items()}
    trained = {name: p.data for name, p in pair.hf.items()}
    for name, a in pair.as_hf(start).items():
        pair.hf[name].data = trained[name].new_tensor(a)
    config = pair.theirs.peft_config["default"]
    init, config.init_lora_weights = config.init_lora_weights, True
    pair.theirs.save_pretrained(folder / "start")
    config.init_lora_weights = init  # HF warns below that it saves another form: so it should
    for name, p in pair.hf.items():
        p.data = trained[name]
    how = {"path_initial_model_for_weight_conversion": str(folder / "start")}
    pair.theirs.save_pretrained(folder, **how)


# in our file it is the LoRA of twice the rank that it is
TWO = Files(same=False, save=converted)
NAMES = ["q_proj", "down_proj"]
ROWS = {
    "pissa": Row(
        mp.PiSSA(r=3, lora_alpha=6.0, target_modules=tuple(NAMES)),
        theirs(r=3, lora_alpha=6, target_modules=NAMES),
        carry=carry,
        files=TWO,
        recorded=False,
    ),
}
TWICE = {
    "attn.q_proj.lora_A.weight": (4, 8),
    "attn.q_proj.lora_B.weight": (8, 4),
    "attn.v_proj.lora_A.weight": (4, 8),
    "attn.v_proj.lora_B.weight": (4, 4),
}

SPEC = Spec(
    mp.PiSSA,
    draw=lambda config: low_rank(config, mp.PiSSA, share=2),
    small=mp.PiSSA(2),
    equation=OnMatrix(equation, rank=lambda method: 2 * method.r),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.PiSSA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.PiSSA(2), TWICE),),
    wrong=(lambda: mp.PiSSA(lora_alpha=0.0),),
    exempt={1: ROUNDING},
    exchanged=True,
)
