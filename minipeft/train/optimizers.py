"""The optimisers of a model: AdamW, or what the methods of the adapters in use bring."""

from ..engine.optimizer import AdamW
from ..peft.base import adapters, in_use


def make_optimizers(model, betas=(0.9, 0.999), weight_decay=0.01):
    """Returns one optimiser per adapter in use, and one for all other trainable parameters.

    They are AdamW, unless the method of an adapter brings its own for some of its parameters.
    A parameter of an adapter that has been frozen is left out.
    """
    options = {"betas": betas, "weight_decay": weight_decay}
    rest = {id(p): p for p in model.parameters() if p.requires_grad}
    optimizers = []
    for name in in_use(model):
        adapter = adapters(model)[name]
        special = adapter.method.make_optimizer(adapter, **options)
        own = special.parameters if special else adapter.parameters()
        own = [p for p in own if p.requires_grad]
        if own:
            optimizers.append(special or AdamW(own, **options))
        for p in own:
            del rest[id(p)]
    return [*optimizers, AdamW(rest.values(), **options)] if rest else optimizers
