"""What a transformer has read so far: keys and values, positions, and who may look at whom.

B batch, T tokens read now, S slots in all, G key-value heads, K head width.
"""

from ..engine.backend import array, np, xp
from ..engine.ops import concat
from ..engine.tensor import Tensor, needs_gradient

HIDDEN = -1e30  # added to a masked score: its exponential is 0, yet no row becomes NaN


class Cache:
    """The keys and values read so far, a pair for each layer, and which slots are padding."""

    def __init__(self, layers):
        self.keys, self.values = [None] * layers, [None] * layers  # (B, G, S, K) each
        self.length = 0  # slots filled
        self.attention_mask = None  # (B, S), False at padding; None: no padding
        self.room = {}  # (memory with room for more slots, how many are filled)

    def append(self, layer, k, v):
        """Add a layer's new keys and values (B, G, T, K) behind the old; return all of them."""
        if self.keys[layer] is not None:
            k = self.joined(("keys", layer), self.keys[layer], k)
            v = self.joined(("values", layer), self.values[layer], v)
        self.keys[layer], self.values[layer] = k, v
        return k, v

    def joined(self, key, old, new):
        """Old slots (B, G, S, K) and new ones behind them.

        Where no gradient has to pass, both are in memory with room for as many again: writing
        n tokens copies each slot about once, not n times. A copy of the cache gets its own.
        """
        if needs_gradient(old, new):
            return concat([old, new], axis=2)
        S, end = old.shape[2], old.shape[2] + new.shape[2]
        room, filled = self.room.get(key, (None, None))
        if filled != S or old.data.base is not room or room.shape[2] < end:
            B, G, _, K = old.shape
            room = xp.empty_like(old.data, shape=(B, G, 2 * end, K), order="C")
            room[:, :, :S] = old.data
        room[:, :, S:end] = new.data
        self.room[key] = room, end
        return Tensor(room[:, :, :end])

    def extend(self, B, T, attention_mask, dtype):
        """Make room for T more slots; return their positions, (T,) or (B, T), and the mask.

        A position is the number of tokens before, padding left out. The mask, (T, S) or
        (B, T, S), is added to scores: 0 where a query may look, HIDDEN or less where not.
        """
        self.length += T
        new, old = attention_mask, self.attention_mask
        if new is None and old is None:
            return np.arange(self.length - T, self.length), causal(T, self.length, dtype)
        old = np.ones((B, self.length - T), bool) if old is None else old
        new = np.ones((B, T), bool) if new is None else new
        self.attention_mask = seen = np.concatenate([old, new], axis=1)
        positions = np.maximum(seen.cumsum(axis=1)[:, -T:] - 1, 0)
        hidden = (~seen[:, None, :] * HIDDEN).astype(dtype)
        return positions, causal(T, self.length, dtype) + xp.asarray(hidden)

    def behind(self, keys, values):
        """A new cache of the given slots, keys[layer] (B, G, P, K), followed by this one's."""
        new, P = Cache(len(self.keys)), keys[0].shape[2]
        new.length = P + self.length
        if self.attention_mask is not None:
            seen = np.ones((len(self.attention_mask), P), bool)
            new.attention_mask = np.concatenate([seen, self.attention_mask], axis=1)
        for layer, pair in enumerate(zip(keys, values, strict=True)):
            new.append(layer, *pair)
            if self.length:
                new.append(layer, self.keys[layer], self.values[layer])
        return new


def causal(T, S, dtype):
    """The mask (T, S) by which query i sees key j when j ≤ i + S − T."""
    return xp.triu(array(np.broadcast_to(HIDDEN, (T, S)), dtype), k=S - T + 1)
