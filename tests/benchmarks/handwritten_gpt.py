"""The step of a small GPT written by hand in PyTorch.  python handwritten_gpt.py SIZE METHOD

One product for queries, keys and values, PyTorch's own attention, LoRA on the parts q and v:
no more than the arithmetic asks for.
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch_step import device, peak, stepper

from cases import R, batch, config, model, serve, threads
from minipeft.engine.backend import np


class Block(nn.Module):
    def __init__(self, config, lora):
        super().__init__()
        D, self.heads = config.width, config.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.o = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.lora = lora
        if lora:
            self.a = nn.ParameterList(nn.Parameter(torch.zeros(R, D)) for _ in "qv")
            self.b = nn.ParameterList(nn.Parameter(torch.zeros(D, R)) for _ in "qv")

    def forward(self, x):
        B, T, D = x.shape
        h = self.ln_1(x)
        q, k, v = self.qkv(h).split(D, dim=-1)
        if self.lora:
            q = q + F.linear(F.linear(h, self.a[0]), self.b[0])  # α / r = 1
            v = v + F.linear(F.linear(h, self.a[1]), self.b[1])
        q, k, v = (a.view(B, T, self.heads, -1).transpose(1, 2) for a in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(h.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, config, lora):
        super().__init__()
        self.wte = nn.Embedding(config.vocab, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config, lora) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def carry(ours, theirs):
    """Copy all weights, and LoRA's, from ours; freeze what ours has frozen."""
    named = dict(theirs.named_parameters())
    fused = {}
    with torch.no_grad():
        for path, p in ours.named_parameters():
            path = path.replace(".deltas.default", "")
            for i, name in enumerate("qv"):
                path = path.replace(f"attn.{name}_proj.lora_A", f"a.{i}")
                path = path.replace(f"attn.{name}_proj.lora_B", f"b.{i}")
            path = path.replace("attn.o_proj", "o").replace("mlp.", "").replace("_proj", "")
            array = torch.tensor(np.asarray(p.data))
            if ".attn." in path:
                head, _, tail = path.partition(".attn.")
                path = f"{head}.qkv.{tail[2:]}"
                fused.setdefault(path, []).append(array)
                array = torch.cat(fused[path])
            named[path].requires_grad_(p.requires_grad)
            if named[path].shape == array.shape:
                named[path].copy_(array)


def main(size, method):
    torch.set_num_threads(threads())
    net, _ = model(size, method)
    theirs = GPT(config(size), method == "lora")
    carry(net, theirs)
    del net
    serve(stepper(theirs.to(device()), theirs, *batch(size)), peak(), same=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
