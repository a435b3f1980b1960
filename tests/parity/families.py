"""Tiny random models of transformers, of each family and with its options."""

import torch
import transformers as hf

SIZES = dict(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
    eos_token_id=2,
)  # fmt: skip
GROUPED = SIZES | dict(num_key_value_heads=2)
GPT2 = dict(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1,
            eos_token_id=2)  # fmt: skip
OPT = dict(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=3,
           num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32,
           pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)  # fmt: skip
MULTIPLIERS = dict(embedding_multiplier=12.0, attention_multiplier=0.05,
                   residual_multiplier=0.22, logits_scaling=8.0)  # fmt: skip

CONFIGS = {
    "gpt2": lambda: hf.GPT2Config(**GPT2),
    "gpt2 untied, relu": lambda: hf.GPT2Config(
        **GPT2, n_inner=40, activation_function="relu", tie_word_embeddings=False
    ),
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "llama tied": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "llama 3.1": lambda: hf.LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "llama with biases": lambda: hf.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "llama, biases of attention": lambda: hf.LlamaConfig(**GROUPED, attention_bias=True),
    "llama, wide heads": lambda: hf.LlamaConfig(**GROUPED, head_dim=16),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=None),
    "mistral, a short window": lambda: hf.MistralConfig(**GROUPED, sliding_window=5),
    "mistral nemo": lambda: hf.MistralConfig(**GROUPED, sliding_window=None, head_dim=16),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen2, a window everywhere": lambda: hf.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=6, max_window_layers=0
    ),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=16),
    "qwen3 with biases": lambda: hf.Qwen3Config(**GROUPED, head_dim=16, attention_bias=True),
    "smollm3": lambda: hf.SmolLM3Config(**GROUPED | dict(num_hidden_layers=5)),
    "smollm3, odd layers": lambda: hf.SmolLM3Config(**GROUPED, no_rope_layers=[0, 1, 0]),
    "phi3": lambda: hf.Phi3Config(**GROUPED, sliding_window=7),
    "phi4-mini": lambda: hf.Phi3Config(
        **GROUPED | dict(hidden_size=64, tie_word_embeddings=True), partial_rotary_factor=0.75
    ),
    "granite": lambda: hf.GraniteConfig(**GROUPED, **MULTIPLIERS, tie_word_embeddings=True),
    "starcoder2": lambda: hf.Starcoder2Config(**GROUPED, use_bias=True, sliding_window=6),
    "starcoder2 without biases": lambda: hf.Starcoder2Config(**GROUPED, use_bias=False),
    "pythia": lambda: hf.GPTNeoXConfig(**SIZES),
    "gpt-neox, one after the other": lambda: hf.GPTNeoXConfig(
        **SIZES, use_parallel_residual=False, hidden_act="gelu_new", attention_bias=False
    ),
    "opt": lambda: hf.OPTConfig(**OPT),
}


def random_model(name):
    """A model of transformers in eval mode, norms and biases random too, so that all count."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]())
    noise = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += (0.1 if p.ndim > 1 else 0.2) * torch.randn(p.shape, generator=noise)
    return model.eval().float()
