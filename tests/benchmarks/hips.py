"""The step of a small GPT on HIPS autograd, with AdamW of ours.  python hips.py SIZE METHOD

The same formulas over plain NumPy arrays; autograd takes the derivatives of each operation.
"""

import sys

import autograd.numpy as anp
from autograd import value_and_grad

from cases import CLIP, DECAY, LR, batch, config, model, serve
from minipeft.engine.optimizer import AdamW, clip_scale, grad_norm
from minipeft.model.layers import Parameter


def layer_norm(x, gain, bias):
    centred = x - anp.mean(x, axis=-1, keepdims=True)
    variance = anp.mean(centred * centred, axis=-1, keepdims=True)
    return centred / anp.sqrt(variance + 1e-5) * gain + bias


def gelu(x):
    return 0.5 * x * (1.0 + anp.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


def linear(w, path, x):
    y = anp.dot(x, w[f"{path}.weight"].T) + w[f"{path}.bias"]
    if f"{path}.lora_A" in w:
        y = y + anp.dot(anp.dot(x, w[f"{path}.lora_A"].T), w[f"{path}.lora_B"].T)
    return y


def loss(trained, frozen, c, ids, labels):
    w, (B, T), D = {**frozen, **trained}, ids.shape, c.width
    x = w["wte.weight"][ids] + w["wpe.weight"][:T]
    mask = anp.triu(anp.full((T, T), -1e30, "float32"), k=1)

    def heads(a):
        return anp.transpose(anp.reshape(a, (B, T, c.heads, D // c.heads)), (0, 2, 1, 3))

    for i in range(c.layers):
        b = f"blocks.{i}."
        h = layer_norm(x, w[b + "ln_1.weight"], w[b + "ln_1.bias"])
        q, k, v = (heads(linear(w, f"{b}attn.{n}_proj", h)) for n in "qkv")
        p = anp.matmul(q, anp.swapaxes(k, -1, -2)) * (D // c.heads) ** -0.5 + mask
        p = anp.exp(p - anp.max(p, axis=-1, keepdims=True))
        o = anp.matmul(p / anp.sum(p, axis=-1, keepdims=True), v)
        o = anp.reshape(anp.transpose(o, (0, 2, 1, 3)), (B, T, D))
        x = x + linear(w, b + "attn.o_proj", o)
        h = layer_norm(x, w[b + "ln_2.weight"], w[b + "ln_2.bias"])
        x = x + linear(w, b + "mlp.down_proj", gelu(linear(w, b + "mlp.up_proj", h)))
    x = layer_norm(x, w["ln_f.weight"], w["ln_f.bias"])
    z = anp.reshape(anp.dot(x, w["wte.weight"].T), (B * T, -1))
    z = z - anp.max(z, axis=-1, keepdims=True)
    picked = z[anp.arange(B * T), labels.reshape(-1)]
    return anp.mean(anp.log(anp.sum(anp.exp(z), axis=-1)) - picked)


def main(size, method):
    net, _ = model(size, method)
    named = [(name.replace(".deltas.default", ""), p) for name, p in net.named_parameters()]
    trained = {name: Parameter(p.data) for name, p in named if p.requires_grad}
    frozen = {name: p.data for name, p in named if not p.requires_grad}
    del net, named
    optimizer, c = AdamW(trained.values(), weight_decay=DECAY), config(size)
    both = value_and_grad(loss)

    def step():
        value, found = both({n: p.data for n, p in trained.items()}, frozen, c, *batch(size))
        for name, p in trained.items():
            p.grad = found[name]
        optimizer.step(LR, clip_scale(grad_norm(optimizer.parameters), CLIP))
        return float(value)

    serve(step, same=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
