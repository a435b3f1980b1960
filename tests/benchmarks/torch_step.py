"""A step of training in PyTorch, with its fused AdamW, and the memory it takes."""

import os

import torch

from cases import CLIP, DECAY, LR, peak_memory


def device():
    """Where PyTorch is to compute: what the environment variable MINIPEFT_DEVICE names."""
    return os.environ.get("MINIPEFT_DEVICE", "cpu")


def peak_on_gpu(reset=False):
    """The most bytes of the GPU that PyTorch's tensors have taken, since the last reset."""
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def peak():
    """What measures the memory where PyTorch computes, for `serve`."""
    return peak_on_gpu if device() == "cuda" else peak_memory


def stepper(net, logits, ids, labels):
    """What takes one step and returns the loss; `logits` maps token ids to (B, T, V)."""
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    ids, labels = (torch.tensor(a, device=device()) for a in (ids, labels.flatten()))

    def step():
        loss = torch.nn.functional.cross_entropy(logits(ids).flatten(0, 1), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step
