"""A step of training in PyTorch, with its fused AdamW, and the memory it takes."""

import torch

from cases import CLIP, DECAY, LR


def stepper(net, logits, ids, labels):
    """What takes one step and returns the loss; `logits` maps token ids to (B, T, V)."""
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    ids, labels = torch.tensor(ids), torch.tensor(labels).flatten()

    def step():
        loss = torch.nn.functional.cross_entropy(logits(ids).flatten(0, 1), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step
