"""The transformer once more in plain NumPy: one row, one token, one head at a time."""

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
    shape = config.layers, 2, config.kv_heads, config.head_width
    prefix = np.zeros((0, *shape)) if prefix is None else prefix.reshape(-1, *shape)
    if config.position == "learned":
        x = x + weights["wpe.weight"][len(prefix) : len(prefix) + len(x)]
    for i in range(config.layers):
        here = {
            path[len(f"blocks.{i}.") :]: w for path, w in weights.items() if f".{i}." in path
        }
        x = x + attention(config, here, normed(config, here, "ln_1", x), prefix[:, i])
        x = x + mlp(config, here, normed(config, here, "ln_2", x))
    x = normed(config, weights, "ln_f", x[len(x) - len(ids) :])
    return x @ weights["wte.weight" if config.tied else "lm_head.weight"].T


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


def turned(config, vector, position):
    """Rotary positions by complex numbers: pair i is one number, times e^(i · angle)."""
    if config.position != "rope":
        return vector
    K = len(vector)
    angle = position / config.rope_theta ** (2 * np.arange(K // 2) / K)
    z = (vector[: K // 2] + 1j * vector[K // 2 :]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag])


def attention(config, weights, x, before):
    """Causal attention that also sees n keys and values before the tokens, (n, 2, G, K)."""
    K, n, out = config.head_width, len(before), np.zeros_like(x)
    q, k, v = (linear(weights, f"attn.{name}_proj", x) for name in "qkv")
    for h in range(config.heads):
        group = h // (config.heads // config.kv_heads)
        mine, shared = slice(h * K, (h + 1) * K), slice(group * K, (group + 1) * K)
        keys = [turned(config, key, n + j) for j, key in enumerate(k[:, shared])]
        keys = [*before[:, 0, group], *keys]
        values = np.concatenate([before[:, 1, group], v[:, shared]])
        for i in range(len(x)):
            query = turned(config, q[i, mine], n + i)
            scores = np.array([query @ key / np.sqrt(K) for key in keys[: n + i + 1]])
            p = np.exp(scores - scores.max())
            out[i, mine] = p / p.sum() @ values[: n + i + 1]
    return linear(weights, "attn.o_proj", out)


def mlp(config, weights, x):
    up = linear(weights, "mlp.up_proj", x)
    if config.mlp == "swiglu":
        gate = linear(weights, "mlp.gate_proj", x)
        return linear(weights, "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    t = np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))
    return linear(weights, "mlp.down_proj", 0.5 * up * (1 + t))
