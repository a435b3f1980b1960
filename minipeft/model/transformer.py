"""A decoder-only transformer that serves GPT-2's shape and Llama's by its Config.

    x = tokens (+ positions)
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = norm(x) · headᵀ

Written with a cache of keys and values from the start: training is reading from an empty cache.
Two lines follow from that. The causal mask is aligned to the end (query i sees slot j when
j ≤ i + S − T), and a token's position is the number of real tokens before it.
Nothing here knows of fine-tuning; a Site only says where a function may be replaced.

B batch, T tokens read now, S slots in all, D width, H heads, G key-value heads, K head width,
V vocabulary.
"""

from ..engine import functional as F
from ..engine.backend import array, np, xp
from .kv_cache import Cache
from .layers import Dropout, Embedding, LayerNorm, Linear, Module, RMSNorm, Site, TiedHead
from .validation import check_attention_mask, check_ids, check_labels


class InputSite(Site):
    """How a sequence starts: with its embeddings x (B, T, D) and nothing to look back at."""

    def __init__(self, config):
        super().__init__()
        self.layers, self.kv_heads = config.layers, config.kv_heads
        self.head_width, self.width = config.head_width, config.width

    def forward(self, x, attention_mask):
        return x, attention_mask, Cache(self.layers)

    def mix(self, rows, with_delta, without):
        """The slots that a delta put before the sequence are real in the chosen rows only."""
        (x, _, cache), (x0, mask0, cache0) = with_delta, without
        B, T, _ = x0.shape
        if len(rows) != B:
            raise ValueError(f"adapters were chosen for {len(rows)} rows, the batch has {B}")

        def before(added, old, length):
            old = np.ones((B, length), bool) if old is None else old
            return np.concatenate([np.repeat(rows[:, None], added, axis=1), old], axis=1)

        added = cache.length - cache0.length
        cache.attention_mask = before(added, cache0.attention_mask, cache0.length)
        return x, before(x.shape[1] - T, mask0, T), cache


class AttentionCore(Site):
    """What queries find: q (B, H, T, K), keys and values (B, G, S, K) -> (B, H, T, K)."""

    def forward(self, q, k, v, mask):
        return F.attention(q, k, v, mask)


class Attention(Site):
    """Causal self-attention with grouped keys and values, (B, T, D) -> (B, T, D)."""

    def __init__(self, config, rng):
        super().__init__()
        D, kv, std = config.width, config.kv_heads * config.head_width, config.init_std
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.q_proj = Linear(D, D, rng, config.bias, std)
        self.k_proj = Linear(D, kv, rng, config.bias, std)
        self.v_proj = Linear(D, kv, rng, config.bias, std)
        self.attend = AttentionCore()
        self.o_proj = Linear(D, D, rng, config.bias, std / (2 * config.layers) ** 0.5)

    def forward(self, x, cache, layer, turn, mask):
        B, T, D = x.shape
        q = turn(split_heads(self.q_proj(x), self.heads))  # (B, H, T, K)
        k = turn(split_heads(self.k_proj(x), self.kv_heads))  # (B, G, T, K)
        v = split_heads(self.v_proj(x), self.kv_heads)
        k, v = cache.append(layer, k, v)  # (B, G, S, K)
        out = self.attend(q, k, v, mask)  # (B, H, T, K)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, T, D))


def split_heads(x, heads):
    """(B, T, heads · K) -> (B, heads, T, K)."""
    B, T, D = x.shape
    return x.reshape(B, T, heads, D // heads).transpose(0, 2, 1, 3)


class MLP(Site):
    """down(gelu(up x)), or gated: down(silu(gate x) · up x); (B, T, D) -> (B, T, D)."""

    def __init__(self, config, rng):
        super().__init__()
        D, ffn, std = config.width, config.ffn, config.init_std
        self.gated = config.mlp == "swiglu"
        if self.gated:
            self.gate_proj = Linear(D, ffn, rng, config.bias, std)
        self.up_proj = Linear(D, ffn, rng, config.bias, std)
        self.down_proj = Linear(ffn, D, rng, config.bias, std / (2 * config.layers) ** 0.5)

    def forward(self, x):
        if self.gated:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.gelu(self.up_proj(x)))


def norm(config):
    """LayerNorm or RMSNorm, as the Config says."""
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.width, config.norm_eps)


class Block(Site):
    """One layer: attention, then MLP, each behind a norm and added to the stream."""

    def __init__(self, config, rng):
        super().__init__()
        self.ln_1, self.attn = norm(config), Attention(config, rng)
        self.ln_2, self.mlp = norm(config), MLP(config, rng)
        self.drop = Dropout(config.dropout)

    def forward(self, x, *memory):
        x = x + self.drop(self.attn(self.ln_1(x), *memory))
        return x + self.drop(self.mlp(self.ln_2(x)))


class Transformer(Module):
    """A language model: token ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config, rng):
        rng, D, std = np.random.default_rng(rng), config.width, config.init_std
        self.config = config
        self.wte = Embedding(config.vocab, D, rng, std)
        if config.position == "learned":
            self.wpe = Embedding(config.context, D, rng, std)
        self.start = InputSite(config)
        self.drop = Dropout(config.dropout)
        self.blocks = [Block(config, rng) for _ in range(config.layers)]
        self.ln_f = norm(config)
        free = not config.tied
        self.lm_head = Linear(D, config.vocab, rng, False, std) if free else TiedHead(self.wte)

    def forward(self, ids, cache=None, attention_mask=None):
        """Logits of each next token, ids (B, T) -> (B, T, V), given what `read` is given."""
        return self.read(ids, cache, attention_mask)[0]

    def read(self, ids, cache=None, attention_mask=None):
        """(logits (B, T, V), cache), given what `hidden` is given."""
        x, cache = self.hidden(ids, cache, attention_mask)
        return self.lm_head(x), cache

    def hidden(self, ids, cache=None, attention_mask=None):
        """(what the head reads (B, T, D), cache), having read ids (B, T) behind the cache.

        The cache is filled further, in place. attention_mask (B, T) is False at padding. Raises
        ValueError for ids outside the vocabulary, an empty batch, or more slots than fit.
        """
        ids = check_ids(ids, self.config.vocab)
        attention_mask = check_attention_mask(attention_mask, np.shape(ids))
        x = self.wte(xp.asarray(ids))  # (B, T, D)
        if cache is None:
            x, attention_mask, cache = self.start(x, attention_mask)
        B, T, _ = x.shape
        if cache.length and len(cache.keys[0]) != B:
            raise ValueError(f"the cache is of {len(cache.keys[0])} rows, the ids are of {B}")
        tokens, slots, context = ids.shape[1], cache.length + T, self.config.context
        if slots > context:
            raise ValueError(
                f"{slots} slots are {slots - context} more than the context of {context}: "
                f"{cache.length} cached, {T - tokens} virtual, {tokens} new; shorten the input"
            )
        positions, mask = cache.extend(B, T, attention_mask, x.dtype)
        if self.config.position == "learned":
            x = x + self.wpe(xp.asarray(positions))
        turn = rotation(self.config, positions, x.dtype)
        x = self.drop(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer, turn, mask)
        if T > tokens:  # no logits for what `start` put before the tokens
            x = x[:, T - tokens :]
        return self.ln_f(x), cache

    def loss(self, ids, labels):
        """Mean cross-entropy in nats of labels (B, T) at the logits of ids (B, T), a Tensor.

        Labels equal to IGNORE take no part. Training computes the same number in less memory:
        see `train.batch_gradient.chunked_loss`.
        """
        labels = check_labels(labels, np.shape(ids), self.config.vocab)
        return F.cross_entropy(self(ids), labels)


def rotation(config, positions, dtype):
    """The function that turns queries and keys by their positions; the identity if not RoPE."""
    if config.position != "rope":
        return lambda x: x
    K = config.head_width
    speeds = config.rope_theta ** (-np.arange(0, K, 2) / K)  # radians a position, (K/2,)
    angles = positions[..., None] * speeds  # (T, K/2) or (B, T, K/2)
    if angles.ndim == 3:
        angles = angles[:, None]  # an axis for the heads
    cos, sin = (array(f(angles), dtype) for f in (np.cos, np.sin))
    return lambda x: F.rope(x, cos, sin)
