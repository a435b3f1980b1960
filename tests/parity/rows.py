"""The methods that minipeft shares with HF PEFT: one row each says what both are.

A new method is one more row. `theirs` puts the method on HF's model, where the names and
layouts of what trains are HF's own; only names that do not follow from the paths are listed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from handwritten import beside, bottlenecks, compacters
from hf import peft, rounded, torch
from peft.optimizers import create_loraplus_optimizer

import minipeft as mp

CONV1D = dict(fan_in_fan_out=True)  # HF's Conv1D layers of GPT-2 hold their weights (in, out)


@dataclass(frozen=True)
class Row:
    """One method: ours, how to put HF's on a model, and what has to be known of the two.

    names: HF's names for parts of ours, where it is not the path and the parameter's own name.
    carry: takes over from HF's what ours holds beside what trains.
    optimizer, after_step: as HF trains it, if not by plain AdamW.
    """

    ours: mp.METHODS
    theirs: Callable
    shape: str = "llama"
    tied: bool = False
    names: dict = field(default_factory=dict)
    carry: Callable = lambda pair: None
    optimizer: Callable | None = None
    after_step: Callable = lambda pair, step: None
    clip: float | None = 0.3
    padding: tuple = ("left", "right")
    saved: bool = True  # whether HF PEFT has a file for it


def with_peft(kind, **options):
    """HF PEFT's method on a model; its tensors get the type of the model."""

    def put(model):
        config = getattr(peft, kind)(**options)
        return peft.get_peft_model(model, config).to(model.dtype)

    return put


def prompt_learning(kind, **options):
    """A method of HF PEFT that puts something before the sequence."""
    return with_peft(kind, task_type="CAUSAL_LM", **options)


def chosen(wanted):
    """The base itself, of which the parameters train whose names `wanted` accepts."""

    def put(model):
        for name, p in model.named_parameters():
            p.requires_grad = wanted(name)
        return model

    return put


def pissa(**options):
    """HF takes the SVD in float32 only: here the base is W − s B₀ A₀ of its A₀ and B₀."""

    def put(model):
        double = model.dtype
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = peft.LoraConfig(init_lora_weights="pissa", **options)
        theirs = peft.get_peft_model(model.float(), config).to(double)
        for path, module in theirs.base_model.model.named_modules():
            if isinstance(module, peft.tuners.lora.Linear):
                change = module.get_delta_weight("default").detach()
                module.base_layer.weight.data = weights[f"{path}.weight"] - change
            elif f"{path}.weight" in weights:
                module.weight.data = weights[f"{path}.weight"]
        return theirs

    return put


def carry_pissa(pair):
    for delta in pair.adapter.deltas.values():
        delta.start = -delta.lora_B.data.copy(), delta.lora_A.data.copy()


def carry_vera(pair):
    """The frozen matrices, which each library draws by its own generator."""
    a, b = (getattr(pair.theirs.base_model, f"vera_{side}")["default"] for side in "AB")
    for matrix in (a, b):
        matrix.copy_(rounded(matrix, pair.ours))
    for delta in pair.adapter.deltas.values():
        n_in, n_out, kind = delta.a.shape[1], delta.b.shape[0], delta.a.dtype
        delta.a, delta.b = a[:, :n_in].numpy().astype(kind), b[:n_out].numpy().astype(kind)


def adalora(**options):
    """HF divides by r + 10⁻⁵ so as not to divide by 0; ours by r, as no target has rank 0."""

    def put(model):
        theirs = with_peft("AdaLoraConfig", total_step=20, **options)(model)
        for name, p in theirs.named_parameters():
            if "ranknum" in name:
                p.requires_grad = False
                p.data -= 1e-5
        return theirs

    return put


def exact_softmax(theirs):
    """HF's LLaMA-Adapter takes its softmax in float32 always; here in the input's type."""

    class Functions:
        softmax = staticmethod(lambda x, dim, dtype: torch.softmax(x, dim))

    peft.tuners.adaption_prompt.layer.F = Functions
    return theirs


def gate_per_head(theirs):
    """The paper's gates, one a head; HF has one a layer."""
    for module in theirs.modules():
        if hasattr(module, "adaption_gate"):
            gates = torch.zeros(module.num_heads, 1, 1, dtype=module.adaption_gate.dtype)
            module.adaption_gate = torch.nn.Parameter(gates)
    return exact_softmax(theirs)


def loraplus(pair, lr, weight_decay):
    return create_loraplus_optimizer(
        pair.theirs,
        torch.optim.AdamW,
        lr=lr,
        loraplus_lr_ratio=pair.row.ours.loraplus_lr_ratio,
        loraplus_weight_decay=weight_decay,
    )


def network(kind, places):
    """HF's names of the network that makes virtual tokens: places in a Sequential."""
    names = {"start.embedding": "prompt_encoder.embedding.weight"}
    for i, place in enumerate(places, 1):
        names[f"start.w_{i}"] = f"prompt_encoder.{kind}.{place}.weight"
        names[f"start.b_{i}"] = f"prompt_encoder.{kind}.{place}.bias"
    return names


PROMPT = {"start.prompt_embeddings": "prompt_encoder.embedding.weight"}
QV, SOME = ["q_proj", "v_proj"], ["k_proj", "o_proj", "gate_proj", "down_proj"]

ADALORA = dict(init_r=4, target_r=2, tinit=3, tfinal=5, deltaT=2, orth_reg_weight=0.0)

ROWS = {
    "full": Row(mp.Full(), chosen(lambda name: True), saved=False),
    "full, GPT-2": Row(mp.Full(), chosen(lambda name: True), "gpt2", tied=True, saved=False),
    "bitfit": Row(mp.BitFit(), chosen(lambda name: name.endswith("bias")), "gpt2", saved=False),
    "norms": Row(
        mp.NormTuning(),
        with_peft(
            "LNTuningConfig",
            target_modules=["input_layernorm", "post_attention_layernorm", "norm"],
        ),
    ),
    "norms, GPT-2": Row(
        mp.NormTuning(),
        with_peft("LNTuningConfig", target_modules=["ln_1", "ln_2", "ln_f"]),
        "gpt2",
        tied=True,
    ),
    "last-k": Row(mp.LastK(), chosen(lambda name: "layers.1." in name), saved=False),
    "head": Row(mp.Head(), chosen(lambda name: name == "lm_head.weight"), saved=False),
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
    ),
    "rslora": Row(
        mp.RSLoRA(r=4, lora_alpha=6.0, target_modules=("k_proj", "gate_proj")),
        with_peft(
            "LoraConfig",
            r=4,
            lora_alpha=6,
            use_rslora=True,
            target_modules=["k_proj", "gate_proj"],
        ),
    ),
    "lora+": Row(
        mp.LoRAPlus(r=3, loraplus_lr_ratio=4.0),
        with_peft("LoraConfig", r=3, lora_alpha=8, target_modules=QV),
        optimizer=loraplus,
    ),
    "dora": Row(
        mp.DoRA(r=3, target_modules="all-linear"),
        with_peft("LoraConfig", r=3, use_dora=True, target_modules="all-linear"),
    ),
    "dora, GPT-2": Row(
        mp.DoRA(r=3, target_modules=("o_proj", "up_proj", "down_proj")),
        with_peft(
            "LoraConfig", r=3, use_dora=True, target_modules=["c_proj", "c_fc"], **CONV1D
        ),
        "gpt2",
    ),
    "pissa": Row(
        mp.PiSSA(r=3, lora_alpha=6.0, target_modules=("q_proj", "down_proj")),
        pissa(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
        carry=carry_pissa,
    ),
    "vera": Row(
        mp.VeRA(r=9, target_modules=("q_proj", "v_proj", "down_proj")),
        with_peft("VeraConfig", r=9, target_modules=["q_proj", "v_proj", "down_proj"]),
        carry=carry_vera,
    ),
    "adalora": Row(
        mp.AdaLoRA(**ADALORA, target_modules=tuple(SOME)),
        adalora(**ADALORA, target_modules=SOME),
        after_step=lambda pair, step: pair.theirs.base_model.update_and_allocate(step),
    ),
    "loha": Row(
        mp.LoHa(r=2, alpha=4.0, target_modules="all-linear"),
        with_peft("LoHaConfig", r=2, alpha=4, target_modules="all-linear"),
    ),
    "lokr": Row(
        mp.LoKr(r=2, alpha=4.0, target_modules=("q_proj", "up_proj", "v_proj")),
        with_peft("LoKrConfig", r=2, alpha=4, target_modules=["q_proj", "up_proj", "v_proj"]),
    ),
    "lokr, both": Row(
        mp.LoKr(r=1, alpha=3.0, decompose_both=True, decompose_factor=4),
        with_peft(
            "LoKrConfig",
            r=1,
            alpha=3,
            decompose_both=True,
            decompose_factor=4,
            target_modules=QV,
        ),
    ),
    "ia3": Row(
        mp.IA3(),
        with_peft(
            "IA3Config",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
    ),
    "ia3, GPT-2": Row(
        mp.IA3(("up_proj", "down_proj"), ("down_proj",)),
        with_peft(
            "IA3Config",
            target_modules=["c_fc", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            **CONV1D,
        ),
        "gpt2",
    ),
    "prefix": Row(
        mp.Prefix(5),
        prompt_learning("PrefixTuningConfig", num_virtual_tokens=5),
        names=PROMPT,
    ),
    "prefix, GPT-2": Row(
        mp.PTuningV2(5),
        prompt_learning("PrefixTuningConfig", num_virtual_tokens=5),
        "gpt2",
        tied=True,
        names=PROMPT,
    ),
    "prefix, projection": Row(
        mp.Prefix(5, prefix_projection=True, encoder_hidden_size=7),
        prompt_learning(
            "PrefixTuningConfig",
            num_virtual_tokens=5,
            prefix_projection=True,
            encoder_hidden_size=7,
        ),
        names=network("transform", (0, 2)),
    ),
    "prompt": Row(
        mp.Prompt(4),
        prompt_learning("PromptTuningConfig", num_virtual_tokens=4),
        names=PROMPT,
        padding=("right",),
    ),
    "prompt, GPT-2": Row(
        mp.Prompt(4, init_ids=(3, 1, 2)),
        prompt_learning("PromptTuningConfig", num_virtual_tokens=4),
        "gpt2",
        tied=True,
        names=PROMPT,
        padding=("right",),
    ),
    "p-tuning": Row(
        mp.PTuning(4, encoder_hidden_size=7),
        prompt_learning("PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=7),
        names=network("mlp_head", (0, 2, 4)),
        padding=("right",),
    ),
    "llama-adapter": Row(
        mp.LlamaAdapter(5, per_head=False),
        lambda model: exact_softmax(
            with_peft("AdaptionPromptConfig", adapter_len=5, adapter_layers=2)(model)
        ),
    ),
    "llama-adapter, last layer, per head": Row(
        mp.LlamaAdapter(5, adapter_layers=1),
        lambda model: gate_per_head(
            with_peft("AdaptionPromptConfig", adapter_len=5, adapter_layers=1)(model)
        ),
    ),
    "adapter": Row(mp.Bottleneck(5), bottlenecks(("attn", "mlp"), 5)),
    "adapter, GPT-2": Row(
        mp.Bottleneck(5, nonlinearity="silu"),
        bottlenecks(("attn", "mlp"), 5, "silu"),
        "gpt2",
        tied=True,
    ),
    "pfeiffer": Row(
        mp.Pfeiffer(5, nonlinearity="gelu"), bottlenecks(("mlp",), 5, "gelu"), "gpt2"
    ),
    "parallel": Row(
        mp.Parallel(5, scale=3.0), bottlenecks(("mlp",), 5, join=beside(3.0)), "gpt2"
    ),
    "parallel, both": Row(
        mp.Parallel(5, target_modules=("attn", "mlp")),
        bottlenecks(("attn", "mlp"), 5, join=beside(4.0)),
    ),
    "compacter": Row(
        mp.Compacter(m=6, phm_dim=3, phm_rank=2), compacters(("attn", "mlp"), 6, 3, 2)
    ),
    "compacter++, GPT-2": Row(
        mp.Compacter(m=8, style="pfeiffer"), compacters(("mlp",), 8, 4, 1), "gpt2"
    ),
}
