"""The KV cache: the keys and values of all tokens read so far, layer by layer.

A token's keys and values do not depend on later tokens, so they are computed once and kept.
Generating a token then reads one token, whose queries attend to the cached keys, instead of the
whole text again. Training reads a whole sequence with an empty cache.

A slot is a place in the cache. It holds a token, padding, or a virtual token, which a method
such as prefix tuning puts in front. The cache also counts positions and makes the mask that
says which slots a query may attend to.

Shapes: B batch, T tokens read now, S slots in all, G key-value heads, K head width.
"""

import copy

from ..engine.backend import array, np, xp
from ..engine.ops import concat
from ..engine.tensor import Tensor, needs_gradient

MASKED = -np.inf  # added to a masked score, of which the exponential is then 0


class KVCache:
    """The keys and values read so far, a pair for each layer, and which slots are padding."""

    def __init__(self, layers):
        self.keys, self.values = [None] * layers, [None] * layers  # (B, G, S, K) each
        self.length = 0  # filled slots
        self.attention_mask = None  # (B, S) booleans, False at padding; None: no padding
        self.shared_start = None  # a SharedStart while tokens that all rows share are read once
        self.buffers = {}  # {(kind, layer): (array with room for more slots, slots filled)}

    def append(self, layer, k, v):
        """Add keys and values (B, G, T, K) to a layer. Returns those of all slots."""
        if self.keys[layer] is not None:
            k = self.concatenate(("keys", layer), self.keys[layer], k)
            v = self.concatenate(("values", layer), self.values[layer], v)
        self.keys[layer], self.values[layer] = k, v
        return k, v

    def concatenate(self, name, old, new):
        """Returns the old slots (B, G, S, K) and behind them the new ones (B, G, T, K).

        If no gradient has to pass, they are in a buffer with room for as many again: n tokens
        added one by one copy each slot about once, not n times. Of two copies of a cache that
        share a buffer, the second to append moves to a buffer of its own.
        """
        if needs_gradient(old, new):
            return concat([old, new], axis=2)
        S, end = old.shape[2], old.shape[2] + new.shape[2]
        buffer, filled = self.buffers.get(name, (None, None))
        if filled != S or old.data.base is not buffer or buffer.shape[2] < end:
            B, G, _, K = old.shape
            buffer = xp.empty_like(old.data, shape=(B, G, 2 * end, K), order="C")
            buffer[:, :, :S] = old.data
        buffer[:, :, S:end] = new.data
        self.buffers[name] = buffer, end
        return Tensor(buffer[:, :, :end])

    def extend(self, B, T, attention_mask, dtype, window=None):
        """Count T more slots as filled. Returns (positions, mask) for the tokens in them.

        The position of a token, (T,) or (B, T), is the number of slots before it that are not
        padding. The mask, (T, S) or (B, T, S), is added to the scores of attention: 0 where a
        query may attend to a key, MASKED where it may not. With a window, a query attends to so
        many slots at most, its own and those before it that are not padding.
        """
        self.length += T
        new, old = attention_mask, self.attention_mask
        if new is None and old is None:
            positions = np.arange(self.length - T, self.length)
            return positions, causal(T, self.length, dtype, window)
        old = np.ones((B, self.length - T), bool) if old is None else old
        new = np.ones((B, T), bool) if new is None else new
        self.attention_mask = is_token = np.concatenate([old, new], axis=1)
        place = is_token.cumsum(axis=1) - 1  # of each slot among those that are not padding
        hidden = ~is_token[:, None, :]
        if window is not None:
            hidden = hidden | (place[:, -T:, None] - place[:, None, :] >= window)
        mask = causal(T, self.length, dtype) + array(np.where(hidden, MASKED, 0.0), dtype)
        return np.maximum(place[:, -T:], 0), mask

    def for_rows(self):
        """Returns this cache for reading on: from here on rows share no tokens."""
        cache = copy.copy(self)
        cache.shared_start = None
        return cache

    def with_prefix(self, keys, values):
        """Returns a new cache: P slots that are given, then the slots of this one.

        keys[layer] and values[layer] are (B, G, P, K). The P slots are padding in no row.
        """
        new, P = KVCache(len(self.keys)), keys[0].shape[2]
        new.length = P + self.length
        if self.attention_mask is not None:
            virtual = np.ones((len(self.attention_mask), P), bool)
            new.attention_mask = np.concatenate([virtual, self.attention_mask], axis=1)
        for layer, pair in enumerate(zip(keys, values, strict=True)):
            new.append(layer, *pair)
            if self.length:
                new.append(layer, self.keys[layer], self.values[layer])
        return new


def causal(T, S, dtype, window=None):
    """Returns the causal mask (T, S): 0 where query i may attend to key j, MASKED elsewhere.

    It may if j ≤ i + S − T, and with a window only if also j > i + S − T − window.
    """
    masked = array(np.broadcast_to(MASKED, (T, S)), dtype)
    mask = xp.triu(masked, k=S - T + 1)
    return mask if window is None else mask + xp.tril(masked, k=S - T - window)
