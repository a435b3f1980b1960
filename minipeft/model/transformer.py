"""A decoder-only transformer, of the shape that its Config says: GPT-2's, Llama's, and others.

    x = token embeddings (+ position embeddings)
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = norm(x) · headᵀ

Every forward pass goes through a KV cache; in training it is empty at first. So T tokens are
read behind S − T cached slots: query i may attend to slot j if j ≤ i + S − T, and the position
of a token is the number of slots before it that are not padding.

Nothing here knows of fine-tuning. Most modules are a Site, whose function a method can replace.

Shapes: B batch, T tokens read now, S slots in all, D width, H heads, G key-value heads, K head
width, V vocabulary.
"""

from ..engine import functional as F
from ..engine.backend import array, np, xp
from ..engine.ops import concat, relu
from ..errors import to_python
from .kv_cache import KVCache
from .layers import Dropout, Embedding, LayerNorm, Linear, Module, RMSNorm, Site, TiedHead
from .shared_start import SharedStart, check_shared
from .transaction import computing
from .validation import check_attention_mask, check_ids, check_labels


class InputSite(Site):
    """What a sequence starts with: its embeddings x (B, T, D), its mask, and an empty cache.

    The site of prompts and prefixes: they put virtual tokens before x, or slots into the cache.
    """

    def __init__(self, config):
        super().__init__()
        self.layers, self.kv_heads = config.layers, config.kv_heads
        self.head_width, self.width = config.head_width, config.width

    def forward(self, x, attention_mask):
        return x, attention_mask, KVCache(self.layers)

    def select_rows(self, rows, with_delta, without):
        """Returns the start with a delta; its added slots are padding in rows not chosen."""
        (x, _, cache), (x0, mask0, cache0) = with_delta, without
        B, T, _ = x0.shape
        if len(rows) != B:
            raise ValueError(
                f"adapters were chosen for {len(rows)} rows, the batch has {B}; "
                "choose one for each row"
            )

        def extended(added, mask, length):
            mask = np.ones((B, length), bool) if mask is None else mask
            return np.concatenate([np.repeat(rows[:, None], added, axis=1), mask], axis=1)

        added = cache.length - cache0.length
        cache.attention_mask = extended(added, cache0.attention_mask, cache0.length)
        return x, extended(x.shape[1] - T, mask0, T), cache


class AttentionCore(Site):
    """softmax(q kᵀ / √K + mask) v: q (B, H, T, K), k and v (B, G, S, K) -> (B, H, T, K)."""

    def forward(self, q, k, v, mask):
        return F.attention(q, k, v, mask)


class Attention(Site):
    """Causal self-attention, (B, T, D) -> (B, T, D), with G ≤ H heads of keys and values."""

    def __init__(self, config, rng):
        super().__init__()
        D, K, std = config.width, config.head_width, config.init_std
        q, kv = config.heads * K, config.kv_heads * K
        self.heads, self.kv_heads = config.heads, config.kv_heads
        bias = config.has_bias("q_proj")
        self.q_proj = Linear(D, q, rng, bias, std)
        self.k_proj = Linear(D, kv, rng, bias, std)
        self.v_proj = Linear(D, kv, rng, bias, std)
        self.q_norm = RMSNorm(K, config.norm_eps) if config.qk_norm else unchanged
        self.k_norm = RMSNorm(K, config.norm_eps) if config.qk_norm else unchanged
        self.scale = 1.0  # of the queries, beside the 1 / √K of `attend`
        if config.attention_scale is not None:
            self.scale = config.attention_scale * K**0.5
        self.attend = AttentionCore()
        self.o_proj = Linear(q, D, rng, config.bias, std / (2 * config.layers) ** 0.5)

    def forward(self, x, cache, layer, rotate, mask):
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if start := cache.shared_start:
            q, k, v = map(start.for_each_row, (q, k, v))
        q = self.q_norm(split_heads(q, self.heads))  # (B, H, T, K)
        k = self.k_norm(split_heads(k, self.kv_heads))  # (B, G, T, K)
        k, v = cache.append(layer, rotate(k, layer), split_heads(v, self.kv_heads))
        out = self.attend(scaled(rotate(q, layer), self.scale), k, v, mask)  # (B, H, T, K)
        out = out.transpose(0, 2, 1, 3)  # (B, T, H, K)
        out = out.reshape(*out.shape[:2], -1)
        return self.o_proj(start.once(out) if start else out)


def unchanged(x):
    """Returns x."""
    return x


def scaled(x, factor):
    """Returns factor · x."""
    return x if factor == 1.0 else x * factor


def split_heads(x, heads):
    """Returns the heads apart, (B, T, heads · K) -> (B, heads, T, K)."""
    B, T, D = x.shape
    return x.reshape(B, T, heads, D // heads).transpose(0, 2, 1, 3)


ACTIVATIONS = {"gelu": F.gelu, "gelu-erf": F.gelu_erf, "relu": relu, "swiglu": F.silu}


class MLP(Site):
    """down(gelu(up x)), or with SwiGLU down(silu(gate x) · up x); (B, T, D) -> (B, T, D)."""

    def __init__(self, config, rng):
        super().__init__()
        D, ffn, std = config.width, config.ffn, config.init_std
        bias = config.has_bias("mlp.up_proj")
        self.gated, self.activation = config.mlp == "swiglu", ACTIVATIONS[config.mlp]
        if self.gated:
            self.gate_proj = Linear(D, ffn, rng, bias, std)
        self.up_proj = Linear(D, ffn, rng, bias, std)
        self.down_proj = Linear(ffn, D, rng, bias, std / (2 * config.layers) ** 0.5)

    def forward(self, x):
        if self.gated:
            return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(self.activation(self.up_proj(x)))


def norm(config):
    """Returns a new LayerNorm or RMSNorm, as the Config says."""
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.width, config.norm_eps)


class Block(Site):
    """One layer, (B, T, D) -> (B, T, D): attention, then MLP, each normed and added to x.

    In a parallel block the MLP reads the same x as attention.
    """

    def __init__(self, config, rng):
        super().__init__()
        self.ln_1, self.attn = norm(config), Attention(config, rng)
        self.ln_2, self.mlp = norm(config), MLP(config, rng)
        self.drop = Dropout(config.dropout)
        self.parallel, self.scale = config.parallel, config.residual_scale

    def forward(self, x, cache, layer, rotate, mask):
        out = self.drop(self.attn(self.ln_1(x), cache, layer, rotate, mask))
        attended = x + scaled(out, self.scale)
        out = self.drop(self.mlp(self.ln_2(x if self.parallel else attended)))
        return attended + scaled(out, self.scale)


class Transformer(Module):
    """A language model: token ids (B, T) -> the logits of each next token (B, T, V)."""

    def __init__(self, config, rng):
        rng, D, std = np.random.default_rng(to_python(rng)), config.width, config.init_std
        self.config = config
        self.wte = Embedding(config.vocab, D, rng, std)
        if config.position == "learned":
            self.wpe = Embedding(config.context, D, rng, std)
        self.start = InputSite(config)
        self.drop = Dropout(config.dropout)
        self.blocks = [Block(config, rng) for _ in range(config.layers)]
        self.ln_f = norm(config)
        if config.tied:
            self.lm_head = TiedHead(self.wte)
        else:
            self.lm_head = Linear(D, config.vocab, rng, False, std)

    def forward(self, ids, cache=None, attention_mask=None):
        """Returns the logits (B, T, V); arguments and errors are those of `hidden_states`."""
        return self.read(ids, cache, attention_mask)[0]

    @np.errstate(under="ignore")  # too small a product is 0
    def read(self, ids, cache=None, attention_mask=None, last_only=False):
        """Returns (logits (B, T, V), the cache to go on from), as `hidden_states` does.

        last_only: only those of the last token, (B, 1, V), which is all that generation needs.
        """
        with computing(self):
            x, cache = self.hidden_states(ids, cache, attention_mask)
            return self.lm_head(x[:, -1:] if last_only else x), cache

    def hidden_states(self, ids, cache=None, attention_mask=None, shared=0):
        """Returns (the head's input (B, T, D), cache) for token ids (B, T) behind the cache.

        A cache that is given is filled further, in place; without one, an empty one is started.
        attention_mask (B, T) is False at padding. shared: how many first tokens are the same in
        all rows, of a batch without a cache, padding and dropout; they are computed only once.
        Raises ValueError for ids that are not in the vocabulary, an empty batch, a cache of
        another batch size, or more slots than the context has.
        """
        ids = check_ids(ids, self.config.vocab)
        attention_mask = check_attention_mask(attention_mask, np.shape(ids))
        x = self.wte(xp.asarray(ids))  # (B, T, D)
        if shared:
            check_shared(shared, ids, cache, attention_mask)
        if cache is None:
            x, attention_mask, cache = self.start(x, attention_mask)
        x = scaled(x, self.config.embedding_scale)
        B, T, _ = x.shape
        if cache.length and len(cache.keys[0]) != B:
            raise ValueError(
                f"the cache is of {len(cache.keys[0])} rows, the ids are of {B}; "
                "give both as many rows"
            )
        tokens, slots, context = ids.shape[1], cache.length + T, self.config.context
        if slots > context:
            raise ValueError(
                f"{slots} slots are {slots - context} more than the context of {context}: "
                f"{cache.length} cached, {T - tokens} virtual, {tokens} new; shorten the input"
            )
        positions, mask = cache.extend(B, T, attention_mask, x.dtype, self.config.window)
        if self.config.position == "learned":
            x = x + self.wpe(xp.asarray(positions))
        rotate = rotation(self.config, positions, x.dtype)
        shared += T - tokens if shared else 0  # virtual tokens are the same in all rows too
        x, cache = self.through_blocks(self.drop(x), cache, rotate, mask, shared)
        if T > tokens:  # no logits for the virtual tokens that `start` put in front
            x = x[:, T - tokens :]
        return scaled(self.ln_f(x), 1.0 / self.config.logits_scale), cache

    def through_blocks(self, x, cache, rotate, mask, shared=0):
        """Returns (x (B, T, D) behind all blocks, cache), the shared tokens computed once."""
        if shared:
            cache.shared_start = SharedStart(*x.shape[:2], shared)
            x = cache.shared_start.once(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer, rotate, mask)
        if shared:
            x, cache = cache.shared_start.for_each_row(x), cache.for_rows()
        return x, cache

    def loss(self, ids, labels):
        """Returns the mean cross-entropy, in nats, of labels (B, T) given ids (B, T), a Tensor.

        labels[b, t] is the token that should follow ids[b, : t + 1]; labels equal to IGNORE
        take no part. Training computes the same loss in less memory, without the array of all
        logits: see `train.batch_gradient.chunked_loss`.
        """
        labels = check_labels(labels, np.shape(ids), self.config.vocab)
        return F.cross_entropy(self(ids), labels)


def rotation(config, positions, dtype):
    """Returns rotate(x, layer), which turns queries or keys (B, H, T, K) by their positions.

    Without RoPE, and in the layers of `config.nope`, it returns x. If only a share of a head
    is rotary, the other elements stay.
    """
    if config.position != "rope":
        return lambda x, layer: x
    R = config.rotary_width
    frequencies = config.rope_theta ** (-np.arange(0, R, 2) / R)  # (R/2,) radians per position
    if config.rope_scaling:
        frequencies = scaled_frequencies(frequencies, *config.rope_scaling)
    angles = positions[..., None] * frequencies  # (T, R/2) or (B, T, R/2)
    if angles.ndim == 3:
        angles = angles[:, None]  # an axis for the heads
    cos, sin = (array(f(angles), dtype) for f in (np.cos, np.sin))

    def rotate(x, layer):
        if layer in config.nope:
            return x
        if x.shape[-1] == R:
            return F.rope(x, cos, sin)
        return concat([F.rope(x[..., :R], cos, sin), x[..., R:]], axis=-1)

    return rotate


def scaled_frequencies(frequencies, factor, low, high, context):
    """Returns frequencies for a context `factor` times as long as the `context` before.

    A pair that turned more than `high` times over that context keeps its frequency. One that
    turned less than `low` times gets it divided by the factor; between, it is interpolated.
    Llama 3.1, Grattafiori et al. 2024, arXiv:2407.21783; as in Hugging Face's "llama3"
    """
    turns = context * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / factor)
