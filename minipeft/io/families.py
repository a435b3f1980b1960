"""The families of pretrained models: what Hugging Face's files call their sizes and parameters.

    config.json               Config                          {name there: parameter here}
    {"hidden_size": 576, …}   Config.llama(width=576, …)      model.layers.0.mlp.up_proj.weight

A Family is a table of the differences: the keys of its config.json, its names of parameters,
which matrices it holds as one, and whether it holds them transposed.
"""

from dataclasses import dataclass, field

from ..engine.backend import np

# {part of a path here: the part there} where they differ
LLAMA = {
    "wte": "model.embed_tokens", "ln_f": "model.norm", "blocks": "model.layers",
    "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn": "self_attn",
}  # fmt: skip
GPT2 = {
    "wte": "transformer.wte", "wpe": "transformer.wpe", "ln_f": "transformer.ln_f",
    "blocks": "transformer.h", "o_proj": "c_proj", "up_proj": "c_fc", "down_proj": "c_proj",
}  # fmt: skip
STARCODER = LLAMA | {"up_proj": "c_fc", "down_proj": "c_proj"}
NEOX = {
    "wte": "gpt_neox.embed_in", "ln_f": "gpt_neox.final_layer_norm",
    "blocks": "gpt_neox.layers", "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm",
    "attn": "attention", "o_proj": "dense", "up_proj": "dense_h_to_4h",
    "down_proj": "dense_4h_to_h", "lm_head": "embed_out",
}  # fmt: skip
OPT = {
    "wte": "model.decoder.embed_tokens", "wpe": "model.decoder.embed_positions",
    "ln_f": "model.decoder.final_layer_norm", "blocks": "model.decoder.layers",
    "ln_1": "self_attn_layer_norm", "ln_2": "final_layer_norm", "attn": "self_attn",
    "o_proj": "out_proj", "up_proj": "fc1", "down_proj": "fc2", "mlp": "",
}  # fmt: skip
QKV = ("q_proj", "k_proj", "v_proj")

# {key there: field here}
SIZES = {
    "vocab_size": "vocab", "max_position_embeddings": "context", "hidden_size": "width",
    "num_hidden_layers": "layers", "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads", "intermediate_size": "ffn",
    "tie_word_embeddings": "tied",
}  # fmt: skip
LLAMA_KEYS = SIZES | {"rms_norm_eps": "norm_eps", "head_dim": "head_width"}
BIASES = {"attention_bias": "bias", "mlp_bias": "mlp_bias"}
NEOX_KEYS = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"} | {
    "layer_norm_eps": "norm_eps", "use_parallel_residual": "parallel", "attention_bias": "bias",
}  # fmt: skip
GPT2_KEYS = {
    "vocab_size": "vocab", "n_positions": "context", "n_embd": "width", "n_layer": "layers",
    "n_head": "heads", "n_inner": "ffn", "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied",
}  # fmt: skip
OPT_KEYS = {
    "vocab_size": "vocab", "max_position_embeddings": "context", "hidden_size": "width",
    "num_hidden_layers": "layers", "num_attention_heads": "heads", "ffn_dim": "ffn",
    "enable_bias": "bias", "tie_word_embeddings": "tied",
}  # fmt: skip
GRANITE_KEYS = {
    "embedding_multiplier": "embedding_scale", "attention_multiplier": "attention_scale",
    "residual_multiplier": "residual_scale", "logits_scaling": "logits_scale",
}  # fmt: skip
SWIGLU = {"silu": "swiglu"}
GELU = {
    "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu-erf",
    "relu": "relu",
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How one kind of model differs from ours, in config.json and in its parameters' names."""

    architecture: str  # its class in transformers
    keys: dict  # {key of its config.json: field of a Config}
    names: dict  # {part of a path here: the part there}
    fixed: dict  # fields of a Config that its config.json does not tell
    defaults: dict = field(default_factory=dict)  # values of keys that are not in the file
    activation: tuple = ("hidden_act", SWIGLU)  # the key, and {its values: ours}
    only: dict = field(default_factory=dict)  # keys that must have one value, if there
    fused: dict = field(default_factory=dict)  # {module there: the modules here it holds}
    by_head: bool = False  # a fused matrix has a head's rows of each of them side by side
    transposed: bool = False  # whether the matrices of its blocks are (in, out)
    window: str = ""  # "always": sliding_window counts; "flag": if use_sliding_window is true
    partial_rope: bool = False  # whether a share of a head may be rotary
    scaled_rope: bool = True  # whether RoPE may be scaled as in Llama 3.1
    rope_keys: tuple = ("rope_theta", "partial_rotary_factor")  # where no dict tells them
    spare_positions: int = 0  # rows at the start of its position table that no token uses
    unread: tuple = ()  # keys in its files that transformers does not read

    def module(self, path):
        """Returns the path there of a module here; several may be parts of the same."""
        *parts, last = path.split(".")
        for whole, ours in self.fused.items():
            if last in ours and parts:
                last = whole
        parts = [self.names.get(part, part) for part in [*parts, last]]
        return ".".join(part for part in parts if part)

    def split(self, array, sizes, heads):
        """Returns the parts of a fused array, of so many rows each."""
        if len(sizes) == 1:
            return [array]
        if self.by_head:
            apart = array.reshape(heads, len(sizes), -1, *array.shape[1:])
            return [apart[:, i].reshape(-1, *array.shape[1:]) for i in range(len(sizes))]
        return np.split(array, np.cumsum(sizes)[:-1])

    def join(self, arrays, heads):
        """Returns the fused array of some parts, the inverse of `split`."""
        if len(arrays) == 1:
            return arrays[0]
        if self.by_head:
            rest = arrays[0].shape[1:]
            stacked = np.stack([a.reshape(heads, -1, *rest) for a in arrays], axis=1)
            return stacked.reshape(-1, *rest)
        return np.concatenate(arrays)


ALWAYS, FLAG = "always", "flag"
ROPE = dict(position="rope")
LLAMA_SHAPE = dict(norm="rms", bias=False, **ROPE)
UNTIED = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6}
TIED = {"tie_word_embeddings": True}
QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
GATE_UP = {"gate_up_proj": ("gate_proj", "up_proj")}

FAMILIES = {
    "llama": Family("LlamaForCausalLM", LLAMA_KEYS | BIASES, LLAMA, LLAMA_SHAPE,
                    UNTIED | {"attention_bias": False, "mlp_bias": False}),
    "mistral": Family("MistralForCausalLM", LLAMA_KEYS, LLAMA, LLAMA_SHAPE,
                      UNTIED | {"sliding_window": 4096, "num_key_value_heads": 8},
                      window=ALWAYS),
    "qwen2": Family("Qwen2ForCausalLM", LLAMA_KEYS, LLAMA, LLAMA_SHAPE | {"qkv_bias": True},
                    UNTIED | QWEN, window=FLAG),
    "qwen3": Family("Qwen3ForCausalLM", LLAMA_KEYS | {"attention_bias": "bias"}, LLAMA,
                    LLAMA_SHAPE | {"qk_norm": True, "mlp_bias": False},
                    UNTIED | QWEN | {"attention_bias": False, "head_dim": 128}, window=FLAG),
    "smollm3": Family("SmolLM3ForCausalLM", LLAMA_KEYS | BIASES, LLAMA, LLAMA_SHAPE,
                      UNTIED | TIED | {"attention_bias": False, "mlp_bias": False,
                                       "no_rope_layers": None, "no_rope_layer_interval": 4,
                                       "rope_theta": 2e6, "num_key_value_heads": 4},
                      window=FLAG),
    "phi3": Family("Phi3ForCausalLM", LLAMA_KEYS, LLAMA, LLAMA_SHAPE,
                   UNTIED | {"rms_norm_eps": 1e-5}, fused={"qkv_proj": QKV} | GATE_UP,
                   window=ALWAYS, partial_rope=True, scaled_rope=False),
    "granite": Family("GraniteForCausalLM", LLAMA_KEYS | BIASES | GRANITE_KEYS, LLAMA,
                      LLAMA_SHAPE,
                      UNTIED | {"attention_bias": False, "mlp_bias": False}
                      | dict.fromkeys(GRANITE_KEYS, 1.0)),
    "starcoder2": Family("Starcoder2ForCausalLM",
                         SIZES | {"norm_epsilon": "norm_eps", "use_bias": "bias"}, STARCODER,
                         dict(norm="layer", **ROPE),
                         TIED | {"norm_epsilon": 1e-5, "use_bias": True,
                                 "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh"},
                         ("hidden_act", GELU), window=ALWAYS,
                         unread=("activation_function", "layer_norm_epsilon", "mlp_type",
                                 "norm_type", "scale_attn_weights")),
    "gpt_neox": Family("GPTNeoXForCausalLM", NEOX_KEYS, NEOX,
                       dict(norm="layer", mlp_bias=True, **ROPE),
                       {"tie_word_embeddings": False, "use_parallel_residual": True,
                        "attention_bias": True, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
                        "rotary_pct": 0.25},
                       ("hidden_act", GELU), fused={"query_key_value": QKV}, by_head=True,
                       partial_rope=True, rope_keys=("rotary_emb_base", "rotary_pct")),
    "gpt2": Family("GPT2LMHeadModel", GPT2_KEYS, GPT2, {},
                   TIED | {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
                   ("activation_function", GELU),
                   {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
                    "reorder_and_upcast_attn": False, "add_cross_attention": False},
                   fused={"c_attn": QKV}, transposed=True),
    "opt": Family("OPTForCausalLM", OPT_KEYS, OPT, {},
                  TIED | {"enable_bias": True, "activation_function": "relu"},
                  ("activation_function", GELU),
                  {"do_layer_norm_before": True, "_remove_final_layer_norm": False,
                   "layer_norm_elementwise_affine": True}, spare_positions=2),
}  # fmt: skip
