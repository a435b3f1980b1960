"""What is measured: sizes, methods, one batch each, and how a process is asked for steps.

A process holds one rival: it is asked for a number of steps on standard input, a line each
time, and answers with one line of JSON. So rivals take turns while all of them stay warm.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import minipeft as mp
from minipeft.engine.backend import np
from minipeft.lab.ledger import ledger
from minipeft.train.fit import Run, Settings

R, SLOTS, M = 8, 8, 16  # LoRA's rank, virtual tokens, an adapter's width
LR, DECAY, CLIP = 1e-4, 0.01, 1.0
METHODS = {
    "full": mp.Full(),
    "lora": mp.LoRA(r=R, target_modules=("q_proj", "v_proj")),
    "lora-all": mp.LoRA(r=R, target_modules="all-linear"),
    "adapter": mp.Bottleneck(m=M),
    "prefix": mp.Prefix(num_virtual_tokens=SLOTS),
    "prompt": mp.Prompt(num_virtual_tokens=SLOTS),
}
SIZES = {  # vocabulary, width, layers, heads, tokens, rows
    "S": (96, 64, 2, 4, 64, 16),
    "M": (512, 128, 4, 4, 128, 16),
    "L": (5000, 256, 6, 8, 128, 16),
    "XL": (50257, 768, 12, 12, 64, 4),
    "M-llama": (512, 128, 4, 4, 128, 16),
}
ON_GPU = {size: SIZES[size] for size in ("S", "M", "L", "XL")}
ON_GPU["SmolLM2"] = (49152, 576, 30, 9, 64, 8)


def config(size):
    """The Config of a size: GPT-2's shape, Llama's, or that of SmolLM2-135M."""
    vocab, width, layers, heads, T, _ = (SIZES | ON_GPU)[size]
    if size == "SmolLM2":
        sizes = dict(vocab=vocab, width=width, layers=layers, heads=heads, context=T + SLOTS)
        return mp.Config.llama(**sizes, kv_heads=3, ffn=1536, tied=True)
    shape = mp.Config.llama if size.endswith("llama") else mp.Config.gpt2
    return shape(vocab=vocab, width=width, layers=layers, heads=heads, context=T + SLOTS)


def model(size, method=None):
    """(model, adapter or None): the same numbers in every process."""
    net = mp.Transformer(config(size), rng=0)
    return net, method and mp.attach(net, METHODS[method], rng=1)


def batch(size):
    """Token ids and labels (B, T) of a size, drawn with a seed."""
    vocab, *_, T, B = (SIZES | ON_GPU)[size]
    return random_batch(vocab, B, T)


def random_batch(vocab, B, T):
    """Token ids and labels (B, T), drawn with a seed."""
    tokens = np.random.default_rng(2).integers(0, vocab, (B, T + 1))
    return tokens[:, :-1], tokens[:, 1:]


class SameBatch:
    """Data that is one batch, again and again."""

    def __init__(self, ids, labels):
        self.both = ids, labels

    def __len__(self):
        return len(self.both[0])

    def batch(self, *_):
        return self.both


class Stepper:
    """A step of `fit` on one random batch, without end; calling it returns the loss."""

    def __init__(self, net, B, T, workers=1):
        self.data = SameBatch(*random_batch(net.config.vocab, B, T))
        how = dict(warmup=0, clip=CLIP, weight_decay=DECAY, workers=workers)
        self.run = Run(net, self.data, Settings(10**9, B, LR, **how))

    def __call__(self, each=None):
        self.run.step(each)
        return self.run.history.loss[-1]


def peak_memory(reset=False):
    """The most bytes that this process has held (resident), since the last reset.

    Its workers' peaks are added, less the pages that they share with it.
    """
    if reset:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    workers = [n for file in Path("/proc/self/task").glob("*/children") for n in words(file)]
    peaks = [kilobytes(f"/proc/{pid}/status", "VmHWM") for pid in ("self", *workers)]
    both = ("Shared_Clean", "Shared_Dirty")
    shared = [kilobytes(f"/proc/{pid}/smaps_rollup", key) for pid in workers for key in both]
    return 1024 * (sum(peaks) - sum(shared))


def words(path):
    """The words of a file of the kernel's."""
    return Path(path).read_text(encoding="ascii").split()


def kilobytes(path, key):
    """The number behind a key in such a file."""
    found = words(path)
    return int(found[found.index(f"{key}:") + 1])


def clock(action, n):
    """The seconds of each of n calls."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return times


def serve(step, peak=peak_memory, **about):
    """Answer each number n on standard input with the losses and seconds of n steps.

    peak: what tells the most bytes held so far, by default in the memory of the host.
    """
    at_rest = peak(reset=True)
    print(json.dumps({"at_rest": at_rest, **about}), flush=True)
    for line in sys.stdin:
        losses, seconds, processor = [], [], []
        for _ in range(int(line)):
            began, used = time.perf_counter(), time.process_time()
            losses.append(step())
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - used)
        answer = {"losses": losses, "seconds": seconds, "processor": processor}
        answer["peak"] = peak()
        print(json.dumps(answer), flush=True)


def threads():
    """How many threads this process may use."""
    return int(os.environ["OMP_NUM_THREADS"])


def flops(size, method):
    """The FLOPs of the products of matrices in a step, by the ledger."""
    *_, T, B = SIZES[size]
    return sum(ledger(config(size), METHODS[method], batch=B, seq=T).flops.values())
