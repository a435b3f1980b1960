"""One method on one model twice, ours and HF's, from the same numbers."""

import re

from hf import from_hf, hf_logits, hf_loss, hf_model, hf_module, rounded, to_hf, torch

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.engine.functional import IGNORE
from minipeft.engine.optimizer import learning_rate
from minipeft.peft.base import base_parameters
from minipeft.train.data import Examples
from strategies import batch, model

WRAPPING = r"^base_model\.model\.", r"\.default", r"\.ln_tuning_layers", r"\.adapter"
STEPS, WARMUP, DECAY = 20, 5, 0.1

# The standard deviations of the weights and of what `shake` adds, and the learning rate: steep,
# so that a slip shows everywhere, and GPT-2's own, whose rounding in float32 stays small.
STEEP, MILD = (0.1, 0.2, 0.02), (0.02, 0.02, 0.002)
SIZES = dict(vocab=23, context=32, width=24, layers=2, heads=4, ffn=20, init_std=STEEP[0])
CONFIGS = {
    "llama": mp.Config.llama(**SIZES, kv_heads=2),
    "gpt2": mp.Config.gpt2(**SIZES, tied=False),
}


def drawn(shape, seed, init_std=STEEP[0]):
    """A small random Config of a shape, of two layers as some rows name the second.

    Without a seed a fixed one.
    """
    if seed is None:
        return CONFIGS[shape]
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([2, 3, 6] if shape == "gpt2" else [2, 6]))
    sizes = dict(
        vocab=int(rng.integers(13, 40)),
        context=32,
        width=int(rng.choice([24, 36, 48])),
        layers=2,
        heads=heads,
        ffn=int(rng.integers(12, 50)),
        init_std=init_std,
    )
    if shape == "gpt2":
        return mp.Config.gpt2(**sizes)
    kv_heads = int(rng.choice([n for n in (1, 2, 3, 6) if heads % n == 0]))
    return mp.Config.llama(**sizes, kv_heads=kv_heads, rope_theta=float(rng.choice([1e4, 5e5])))


class Pair:
    """A row's method on a model of ours and on HF's; all that trains is carried from HF's.

    HF's computes in the same precision unless told, in any case from the same numbers. A random
    model in float32 is mild.
    """

    def __init__(self, row, precision, seed=0, config=None, theirs=None):
        self.row = row
        mild = precision == "float32" and seed is not None
        init_std, self.noise, self.lr = MILD if mild else STEEP
        self.config = config or drawn(row.shape, seed, init_std).with_(tied=row.tied)
        seed = seed or 0
        self.ours = model(self.config, seed, precision)
        torch.manual_seed(seed)
        self.theirs = row.theirs(hf_model(self.ours, theirs))
        self.adapter = mp.attach(self.ours, row.ours)
        self.fresh = {path: p.data.copy() for path, p in self.adapter.named_parameters()}
        named = self.theirs.named_parameters()
        self.hf = {plain(name): p for name, p in named if p.requires_grad}
        self.carry()
        row.carry(self)

    def name(self, path):
        """HF's name for something that ours trains beside the base's own parameters."""
        if path in self.row.names:
            return self.row.names[path]
        module, _, name = path.rpartition(".")
        return f"{hf_module(module, self.config)}.{name}"

    def as_hf(self, arrays):
        """{our path: array} in HF's names, layout and shapes."""
        copies = {path: a for path, a in arrays.items() if path in self.adapter.copies}
        added = {self.name(path): a for path, a in arrays.items() if path not in copies}
        added = {name: a.reshape(self.hf[name].shape) for name, a in added.items()}
        return to_hf(copies, self.config) | added

    def as_ours(self, tensors):
        """{HF's name: tensor} in our names, layout and shapes."""
        arrays = from_hf(tensors, self.config, self.adapter.copies)
        for path, p in self.adapter.named_parameters():
            if path not in arrays:
                arrays[path] = tensors[self.name(path)].detach().numpy().reshape(p.shape)
        return arrays

    def carry(self):
        """Copy the numbers that train from HF's to ours, rounded in both to what ours holds."""
        for p in self.hf.values():
            p.data = rounded(p.data, self.ours)
        arrays = self.as_ours(self.hf)
        for path, p in self.adapter.named_parameters():
            p.data[...] = arrays[path]

    def shake(self, seed=1):
        """Add noise to all that trains, the same to both."""
        rng = np.random.default_rng(seed)
        with torch.no_grad():
            for p in self.hf.values():
                p += torch.tensor(self.noise * rng.standard_normal(p.shape), dtype=p.dtype)
        self.carry()
        return self

    def values(self):
        """What ours trains, in HF's names."""
        return self.as_hf({path: p.data for path, p in self.adapter.named_parameters()})

    def gradients(self):
        """Gradients of ours, in HF's names."""
        return self.as_hf({path: p.grad for path, p in self.adapter.named_parameters()})

    def trained(self):
        """(ours, HF's): all that trains, but for GPT-2's key biases.

        They add the same to all scores of a query, so their gradient is 0 in exact arithmetic
        and rounding otherwise, which AdamW blows up to steps of any size, with no effect.
        """
        ours, theirs = self.values(), {name: p.detach() for name, p in self.hf.items()}
        for name in [name for name in ours if name.endswith("c_attn.bias")]:
            for arrays in (ours, theirs):
                query, _, value = arrays.pop(name).reshape(3, -1)
                arrays |= {f"{name}.query": query, f"{name}.value": value}
        return ours, theirs

    def merged(self):
        """(ours, HF's): all weights after merging, in HF's names."""
        mp.merge(self.ours)
        ours = {path: to_numpy(p.data) for path, p in base_parameters(self.ours)}
        theirs = self.theirs
        theirs = theirs.merge_and_unload() if hasattr(theirs, "merge_and_unload") else theirs
        return to_hf(ours, self.ours.config), dict(theirs.named_parameters())

    def examples(self, n=11, T=7):
        """Examples of random tokens, rows of unequal lengths."""
        ids, labels = batch(self.config, n, T)
        lengths = np.random.default_rng(3).integers(2, T + 1, n)
        return Examples(ids, np.where(np.arange(T) < lengths[:, None], labels, IGNORE))

    def train(self):
        """(ours, HF's): the loss at each of 20 steps of AdamW."""
        data, row = self.examples(), self.row
        settings = dict(warmup=WARMUP, clip=row.clip, weight_decay=DECAY)
        ours = mp.fit(self.ours, data, STEPS, 4, self.lr, **settings).loss
        optimizer = (row.optimizer or grouped)(self, self.lr, DECAY)
        for group in optimizer.param_groups:
            group["highest"] = group["lr"]
        theirs = []
        for step in range(STEPS):
            ids, labels = data.batch(step, 4, seed=0)
            loss = hf_loss(hf_logits(self.theirs, ids), labels)
            loss.backward()
            if row.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.hf.values(), row.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, STEPS, group["highest"], WARMUP)
            optimizer.step()
            row.after_step(self, step + 1)
            optimizer.zero_grad()
            theirs.append(loss.item())
        return np.array(ours), np.array(theirs)


def grouped(pair, lr, weight_decay):
    """PyTorch's AdamW, decaying what is a matrix in ours; HF's (IA)³ has vectors as (n, 1)."""
    vectors = [path for path, p in pair.adapter.named_parameters() if p.ndim < 2]
    still = {name for name in pair.as_hf(dict_of(pair, vectors))}
    groups = {0.0: [], weight_decay: []}
    for name, p in pair.hf.items():
        groups[0.0 if name in still else weight_decay].append(p)
    groups = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def dict_of(pair, paths):
    parameters = dict(pair.adapter.named_parameters())
    return {path: parameters[path].data for path in paths}


def plain(name):
    """HF's name of a trained tensor without what wrapping has put into it."""
    for part in WRAPPING:
        name = re.sub(part, "", name)
    prefixes = {method.hf_prefix for method in mp.METHODS.values() if method.hf_prefix}
    return re.sub(rf"((?:{'|'.join(prefixes)})\w+)\.weight$", r"\1", name)
