"""What puts a method of HF PEFT on HF's model, for the parity rows of specs.

PyTorch and HF PEFT are imported when such a function is called, and not before.
"""

CONV1D = dict(fan_in_fan_out=True)  # HF's Conv1D layers of GPT-2 hold their weights (in, out)
QV = ["q_proj", "v_proj"]
PROMPT = {"start.prompt_embeddings": "prompt_encoder.embedding.weight"}  # HF's name for ours


def with_peft(kind, **options):
    """HF PEFT's method on a model; its tensors get the type of the model."""

    def put(model):
        import peft

        config = getattr(peft, kind)(**options)
        return peft.get_peft_model(model, config).to(model.dtype)

    return put


def prompt_learning(kind, **options):
    """A method of HF PEFT that puts something before the sequence."""
    return with_peft(kind, task_type="CAUSAL_LM", **options)


def chosen(wanted):
    """The base itself, of which the parameters train whose names `wanted` accepts."""

    def put(model):
        for name, p in model.named_parameters():
            p.requires_grad = wanted(name)
        return model

    return put


def network(kind, places):
    """HF's names of the network that makes virtual tokens: places in a Sequential."""
    names = {"start.embedding": "prompt_encoder.embedding.weight"}
    for i, place in enumerate(places, 1):
        names[f"start.w_{i}"] = f"prompt_encoder.{kind}.{place}.weight"
        names[f"start.b_{i}"] = f"prompt_encoder.{kind}.{place}.bias"
    return names


def bottlenecks(*args, beside=None, **options):
    """Adapters by hand in PyTorch, after sub-layers, or beside them at a scale."""

    def put(model):
        import handwritten

        join = handwritten.after if beside is None else handwritten.beside(beside)
        return handwritten.bottlenecks(*args, join=join, **options)(model)

    return put


def fusions(*args, **options):
    """Adapters and their fusion by hand in PyTorch."""

    def put(model):
        import handwritten

        return handwritten.fusions(*args, **options)(model)

    return put


def of_task(k):
    """Makes a model of HF PEFT's compute what it does for task k, and not sample weights."""

    def made(theirs):
        import torch

        class OfTask(type(theirs)):
            def forward(self, input_ids=None, **options):
                tasks = torch.full((len(input_ids),), k)
                return super().forward(input_ids=input_ids, task_ids=tasks, **options)

        theirs.__class__ = OfTask
        return theirs.eval()

    return made
