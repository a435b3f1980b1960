"""The transformer once more in plain NumPy: one row, one token, one head at a time."""

import math

import numpy as np

from minipeft.engine.backend import to_numpy


def logits(model, ids, prompt=None, prefix=None):
    """Logits (T, V) of one sequence of token ids, read without padding or cache.

    prompt: vectors (n, width) that are read before the embeddings of the tokens, like those.
    prefix: (n, layers · 2 · G · K), n keys and n values that each layer attends to as they are;
    the positions of the tokens begin at n.
    """
    config = model.config
    weights = {
        path: np.asarray(to_numpy(p.data), "float64") for path, p in model.named_parameters()
    }
    x = np.stack([weights["wte.weight"][token] for token in ids])
    x = x if prompt is None else np.concatenate([prompt, x])
    x = x * config.embedding_scale
    shape = config.layers, 2, config.kv_heads, config.head_width
    prefix = np.zeros((0, *shape)) if prefix is None else prefix.reshape(-1, *shape)
    if config.position == "learned":
        x = x + weights["wpe.weight"][len(prefix) : len(prefix) + len(x)]
    for i in range(config.layers):
        here = {
            path[len(f"blocks.{i}.") :]: w for path, w in weights.items() if f".{i}." in path
        }
        read = attention(config, here, i, normed(config, here, "ln_1", x), prefix[:, i])
        attended = x + config.residual_scale * read
        seen = x if config.parallel else attended
        read = mlp(config, here, normed(config, here, "ln_2", seen))
        x = attended + config.residual_scale * read
    x = normed(config, weights, "ln_f", x[len(x) - len(ids) :])
    head = weights["wte.weight" if config.tied else "lm_head.weight"]
    return x @ head.T / config.logits_scale


def normed(config, weights, name, x):
    out = []
    for row in x:
        if config.norm == "layer":
            centred = row - np.mean(row)
            row = centred / np.sqrt(np.mean(centred**2) + config.norm_eps)
            out.append(row * weights[f"{name}.weight"] + weights[f"{name}.bias"])
        else:
            row = row / np.sqrt(np.mean(row**2) + config.norm_eps)
            out.append(row * weights[f"{name}.weight"])
    return np.stack(out)


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def turned(config, layer, vector, position):
    """Rotary positions by complex numbers: pair i is one number, times e^(i · angle)."""
    if config.position != "rope" or layer in config.nope:
        return vector
    K = round(config.rotary * len(vector))
    z = vector[: K // 2] + 1j * vector[K // 2 : K]
    for i in range(K // 2):
        angle = config.rope_theta ** (-2 * i / K)  # of one position
        if config.rope_scaling:
            angle = slower(angle, *config.rope_scaling)
        z[i] *= np.exp(1j * position * angle)
    return np.concatenate([z.real, z.imag, vector[K:]])


def slower(angle, factor, low, high, context):
    """The angle of a pair in a context that has become longer."""
    wavelength = 2 * np.pi / angle
    if wavelength < context / high:
        return angle
    if wavelength > context / low:
        return angle / factor
    smooth = (context / wavelength - low) / (high - low)
    return (1 - smooth) * angle / factor + smooth * angle


def head_normed(config, weights, name, vector):
    """A head's query or key, normed if the Config says so."""
    if not config.qk_norm:
        return vector
    root = np.sqrt(np.mean(vector**2) + config.norm_eps)
    return vector / root * weights[f"attn.{name}_norm.weight"]


def attention(config, weights, layer, x, before):
    """Causal attention that also sees n keys and values before the tokens, (n, 2, G, K)."""
    K, n = config.head_width, len(before)
    out = np.zeros((len(x), config.heads * K))
    scale = config.attention_scale or 1 / np.sqrt(K)
    q, k, v = (linear(weights, f"attn.{name}_proj", x) for name in "qkv")
    for h in range(config.heads):
        group = h // (config.heads // config.kv_heads)
        mine, shared = slice(h * K, (h + 1) * K), slice(group * K, (group + 1) * K)
        keys = [head_normed(config, weights, "k", key) for key in k[:, shared]]
        keys = [turned(config, layer, key, n + j) for j, key in enumerate(keys)]
        keys = [*before[:, 0, group], *keys]
        values = np.concatenate([before[:, 1, group], v[:, shared]])
        for i in range(len(x)):
            query = head_normed(config, weights, "q", q[i, mine])
            query = turned(config, layer, query, n + i)
            first = max(0, n + i + 1 - (config.window or n + i + 1))
            scores = np.array([scale * (query @ key) for key in keys[first : n + i + 1]])
            p = np.exp(scores - scores.max())
            out[i, mine] = p / p.sum() @ values[first : n + i + 1]
    return linear(weights, "attn.o_proj", out)


def mlp(config, weights, x):
    up = linear(weights, "mlp.up_proj", x)
    if config.mlp == "swiglu":
        gate = linear(weights, "mlp.gate_proj", x)
        hidden = gate / (1 + np.exp(-gate)) * up
    elif config.mlp == "relu":
        hidden = np.where(up > 0, up, 0)
    elif config.mlp == "gelu-erf":
        hidden = 0.5 * up * (1 + np.vectorize(math.erf)(up / np.sqrt(2)))
    else:
        hidden = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    return linear(weights, "mlp.down_proj", hidden)
