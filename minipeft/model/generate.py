"""Text generation, token by token: each new token is read with the KV cache of those before."""

from tqdm import tqdm

from ..engine.backend import np, to_numpy
from ..engine.tensor import no_grad
from ..errors import to_python
from .transaction import computing
from .validation import check_ids


def generate(model, prompts, max_new=32, *, temperature=0.0, top_k=None, stop=None, rng=None):
    """Continue each prompt by up to `max_new` tokens. Returns a list of lists of new token ids.

    prompts: lists of token ids. Shorter ones are left-padded and the padding is masked, so that
    each prompt is continued as it would be alone.
    temperature: 0 takes the most likely token (greedy decoding); otherwise the token is drawn
    with `rng`, a seed or a NumPy Generator, from softmax(logits / temperature).
    top_k: draw from the k most likely tokens only. stop: a row ends after this token, which is
    part of what is returned.

    With `stop`, rows also end where the context is full. Raises ValueError for bad prompts or
    options, and if the prompts, or without `stop` all the tokens, are too long for the context.
    """
    max_new, temperature, top_k, stop = map(to_python, (max_new, temperature, top_k, stop))
    prompts = check_prompts(prompts, model.config.vocab)
    check_options(max_new, temperature, top_k, stop, model.config.vocab)
    rng = np.random.default_rng(to_python(rng))
    T = max(map(len, prompts))
    attention_mask = np.array([[i >= T - len(prompt) for i in range(T)] for prompt in prompts])
    ids = np.array([[0] * (T - len(prompt)) + prompt for prompt in prompts])
    outputs, unfinished = [[] for _ in prompts], set(range(len(prompts)))
    steps = tqdm(
        reversed(range(max_new)), "generate", max_new, delay=2, leave=False, disable=None
    )
    with computing(model), no_grad(), steps:
        padded = not attention_mask.all()
        logits, cache = model.read(ids, attention_mask=attention_mask if padded else None)
        if stop is None:
            check_room(cache.length + max_new - 1, model.config.context)
        for remaining in steps:
            tokens = choose(to_numpy(logits.data[:, -1]), temperature, top_k, rng)
            for row in sorted(unfinished):
                outputs[row].append(int(tokens[row]))
                if tokens[row] == stop:
                    unfinished.discard(row)
            full = cache.length == model.config.context
            if not unfinished or not remaining or full:
                break
            logits, cache = model.read(tokens[:, None], cache)
    return outputs


def check_prompts(prompts, vocab):
    """Returns the prompts as lists of token ids; raises ValueError for anything else."""
    rows = list(prompts) if np.iterable(prompts) else []
    if not rows or not all(hasattr(prompt, "__len__") and len(prompt) for prompt in rows):
        text = "generate needs at least one prompt, and each with at least one token id"
        raise ValueError(f"{text}, such as [[1, 2], [3]], got {prompts!r}")
    return [check_ids([prompt], vocab)[0].tolist() for prompt in rows]


def check_room(slots, context):
    """Raises ValueError for more slots than the context has."""
    if slots > context:
        raise ValueError(
            f"{slots} slots are {slots - context} more than the context of {context}; "
            f"lower max_new by {slots - context}, or shorten the prompts"
        )


def check_options(max_new, temperature, top_k, stop, vocab):
    """Raises ValueError for options of `generate` that are out of their range."""
    in_range = type(temperature) in (int, float) and 0 <= temperature < np.inf
    if not (in_range and is_count(max_new) and (top_k is None or is_count(top_k))):
        raise ValueError(
            "generate needs temperature ≥ 0 and whole numbers top_k ≥ 1 and max_new ≥ 1, "
            f"got {temperature!r}, {top_k!r} and {max_new!r}"
        )
    if stop is not None and (type(stop) is not int or stop not in range(vocab)):
        raise ValueError(f"stop is a token of the vocabulary (0 … {vocab - 1}), got {stop!r}")


def is_count(n):
    """Returns whether n is a whole number ≥ 1."""
    return type(n) is int and n >= 1


def choose(logits, temperature, top_k, rng):
    """Returns the next token id of each row, logits (B, V) -> (B,): most likely, or drawn."""
    if temperature == 0:
        return logits.argmax(axis=-1)
    z = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # an overflow to −∞ is fine: such a token is never drawn
        z = (z - z.max(axis=-1, keepdims=True)) / temperature
    if top_k is not None and top_k < z.shape[-1]:
        z[z < np.sort(z, axis=-1)[:, -top_k, None]] = -np.inf
    # Gumbel-max trick: the argmax of z plus Gumbel noise is a draw from softmax(z)
    return (z + rng.gumbel(size=z.shape)).argmax(axis=-1)
