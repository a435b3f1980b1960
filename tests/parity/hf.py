"""The same transformer in minipeft and in Hugging Face's transformers: weights carried over.

Weights have two layouts: ours, {path: array (out, in)}, and HF's, which is the same for Llama
but for names; GPT-2 there has Conv1D layers, which hold (in, out), and one of them, c_attn, for
queries, keys and values together.
"""

import re

import pytest

reason = "parity is checked against torch, transformers and peft: pip install '.[parity]'"
torch = pytest.importorskip("torch", reason=reason)
transformers = pytest.importorskip("transformers", reason=reason)
peft = pytest.importorskip("peft", reason=reason)

from transformers.models.llama.modeling_llama import (  # noqa: E402
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from minipeft.engine.backend import np, to_numpy  # noqa: E402
from minipeft.engine.functional import IGNORE  # noqa: E402
from minipeft.peft.base import base_parameters, precision  # noqa: E402

torch.set_num_threads(1)  # the models are too small for more

LLAMA = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
    r"blocks\.(\d+)\.ln_1": r"model.layers.\1.input_layernorm",
    r"blocks\.(\d+)\.ln_2": r"model.layers.\1.post_attention_layernorm",
    r"blocks\.(\d+)\.attn(\.attend)?(.*)": r"model.layers.\1.self_attn\3",
    r"blocks\.(\d+)\.mlp(.*)": r"model.layers.\1.mlp\2",
}
GPT2 = {
    "(wte|wpe|ln_f)": r"transformer.\1",
    "lm_head": "lm_head",
    r"blocks\.(\d+)\.(ln_1|ln_2|attn|mlp)(\.parts\.\d+)?": r"transformer.h.\1.\2\3",
    r"blocks\.(\d+)\.attn\.o_proj": r"transformer.h.\1.attn.c_proj",
    r"blocks\.(\d+)\.attn\.([qkv])_proj": r"transformer.h.\1.attn.c_attn.\2",
    r"blocks\.(\d+)\.mlp\.up_proj": r"transformer.h.\1.mlp.c_fc",
    r"blocks\.(\d+)\.mlp\.down_proj": r"transformer.h.\1.mlp.c_proj",
}


def is_gpt2(config):
    """Whether a Config has GPT-2's shape; the other is Llama's."""
    return config.norm == "layer"


def hf_module(path, config):
    """HF's path of a module of ours."""
    for pattern, name in (GPT2 if is_gpt2(config) else LLAMA).items():
        if match := re.fullmatch(pattern, path):
            return match.expand(name)
    raise KeyError(path)


def to_hf(arrays, config):
    """{path: array} of ours, any part of a model, in HF's names and layout."""
    found, fused = {}, {}
    for path, array in arrays.items():
        module, _, attribute = path.rpartition(".")
        name = f"{hf_module(module, config)}.{attribute}"
        if is_gpt2(config) and array.ndim == 2 and not module.startswith(("wte", "wpe", "lm")):
            array = array.T
        if match := re.fullmatch(r"(.*c_attn)\.[qkv](\..*)", name):
            fused.setdefault("".join(match.groups()), []).append(array)
        else:
            found[name] = array
    return found | {name: np.concatenate(parts, axis=-1) for name, parts in fused.items()}


def from_hf(state, config, paths):
    """The arrays of these paths of ours, from a state dict of HF's."""
    found = {}
    for path in paths:
        module, _, attribute = path.rpartition(".")
        name = f"{hf_module(module, config)}.{attribute}"
        match = re.fullmatch(r"(.*c_attn)\.([qkv])(\..*)", name)
        array = to_numpy(state[match[1] + match[3] if match else name].detach().numpy())
        if match:
            array = np.split(array, 3, axis=-1)["qkv".index(match[2])]
        if is_gpt2(config) and array.ndim == 2 and not module.startswith(("wte", "wpe", "lm")):
            array = array.T
        found[path] = array
    return found


def hf_config(config):
    """The configuration of HF's model of the same shape."""
    common = dict(vocab_size=config.vocab, tie_word_embeddings=config.tied)
    common |= dict(bos_token_id=None, eos_token_id=None)
    if is_gpt2(config):
        return transformers.GPT2Config(
            n_positions=config.context,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.ffn,
            layer_norm_epsilon=config.norm_eps,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
            **common,
        )
    return transformers.LlamaConfig(
        max_position_embeddings=config.context,
        hidden_size=config.width,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        attention_bias=config.bias,
        mlp_bias=config.bias,
        **common,
    )


class ExactRMSNorm(LlamaRMSNorm):
    """RMSNorm in the precision of its input; HF's own computes in float32 always."""

    def forward(self, x):
        square = x.square().mean(-1, keepdim=True)
        return self.weight * (x / (square + self.variance_epsilon).sqrt())


class ExactRotary(LlamaRotaryEmbedding):
    """Rotary angles in the precision of the input; HF's own are float32 always."""

    def forward(self, x, position_ids):
        theta, K = self.config.rope_parameters["rope_theta"], 2 * len(self.inv_freq)
        speeds = theta ** (-torch.arange(0, K, 2, dtype=x.dtype) / K)
        angles = position_ids[..., None] * torch.cat([speeds, speeds])
        return angles.cos(), angles.sin()


def hf_model(model, kind=None):
    """HF's GPT2LMHeadModel or LlamaForCausalLM with the weights of one of ours, frozen or not.

    It computes in the precision of ours unless told. In float64 the two places where HF's Llama
    computes in float32 all the same are replaced.
    """
    config = model.config
    shape = transformers.GPT2LMHeadModel if is_gpt2(config) else transformers.LlamaForCausalLM
    base = {path: to_numpy(p.data) for path, p in base_parameters(model)}
    double = (kind or precision(model)) == "float64"
    theirs = shape(hf_config(config)).to(torch.float64 if double else torch.float32).eval()
    for module in theirs.modules() if double else ():
        for plain, exact in ((LlamaRMSNorm, ExactRMSNorm), (LlamaRotaryEmbedding, ExactRotary)):
            if type(module) is plain:
                module.__class__ = exact
    state = {name: torch.tensor(a) for name, a in to_hf(base, config).items()}
    if config.tied:
        state["lm_head.weight"] = state[hf_module("wte", config) + ".weight"]
    theirs.load_state_dict(state)
    return theirs


def rounded(tensor, model):
    """A tensor of which every number is one that a model of ours can hold."""
    return torch.tensor(tensor.numpy().astype(precision(model)), dtype=tensor.dtype)


def hf_logits(theirs, ids, attention_mask=None, **options):
    """Logits (B, T, V) by HF's model, those of virtual tokens dropped.

    Positions are given with an attention mask, as HF counts padding on the left too.
    """
    ids = torch.tensor(ids)
    if attention_mask is not None:
        mask = torch.tensor(attention_mask.astype(int))
        options |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    return theirs(input_ids=ids, **options).logits[:, -ids.shape[1] :]


def hf_loss(logits, labels):
    """Cross-entropy, in the precision of the logits; HF's own is float32 always."""
    flat, labels = logits.flatten(0, 1), torch.tensor(labels).flatten()
    return torch.nn.functional.cross_entropy(flat, labels, ignore_index=IGNORE)


def difference(ours, theirs, least=0.0):
    """max |ours − theirs| / max |theirs|: how far an array is off, relative to its largest.

    Where all of `theirs` is smaller than `least`, relative to that instead.
    """
    ours, theirs = to_numpy(ours), torch.as_tensor(theirs).detach().numpy()
    assert ours.shape == theirs.shape
    off = np.abs(ours.astype("float64") - theirs).max(initial=0.0)
    return float(off and off / max(np.abs(theirs).max(), least, np.finfo("float64").tiny))


def assert_close(ours, theirs, limit):
    """Two {name: array} are alike: the same names, every array within `limit` (`difference`).

    An array that vanishes by symmetry, as do gradients of scores when one token is seen, holds
    rounding alone: one smaller than 10⁻² of the largest is compared with that.
    """
    assert ours.keys() == theirs.keys()
    theirs = {name: torch.as_tensor(a).detach() for name, a in theirs.items()}
    largest = max(float(a.abs().max()) for a in theirs.values())
    off = {name: difference(ours[name], theirs[name], 1e-2 * largest) for name in ours}
    worst = max(off, key=off.get)
    assert off[worst] <= limit, f"{worst} is off by {off[worst]:.1e}, more than {limit:.0e}"
