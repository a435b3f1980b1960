"""Text generation, token by token: each new token is read with the KV cache of those before."""

from typing import NamedTuple

from tqdm import tqdm

from ..engine.backend import np, to_numpy
from ..engine.tensor import no_grad
from ..errors import to_python
from .transaction import computing
from .validation import check_ids


def generate(
    model, prompts, max_new=32, *, temperature=0.0, top_k=None, top_p=None,
    repetition_penalty=1.0, stop=None, rng=None,
):  # fmt: skip
    """Continue each prompt by up to `max_new` tokens. Returns a list of lists of new token ids.

    prompts: lists of token ids. Shorter ones are left-padded and the padding is masked, so that
    each prompt is continued as it would be alone.
    temperature: 0 takes the most likely token (greedy decoding); otherwise the token is drawn
    with `rng`, a seed or a NumPy Generator, from softmax(logits / temperature).
    top_k: draw from the k most likely tokens only. top_p: draw from the most likely tokens that
    together have at least this probability (Holtzman et al. 2020, arXiv:1904.09751). Of each
    the fewest are kept, but with all that are as likely as the last of them.
    repetition_penalty: logits of tokens that are in the prompt or written already are divided
    by it if positive, else multiplied (Keskar et al. 2019, section 4.1, arXiv:1909.05858).
    stop: a token, or several; a row ends after any of them, which is part of what is returned.

    With `stop`, rows also end where the context is full. Raises ValueError for bad prompts or
    options, and if the prompts, or without `stop` all the tokens, are too long for the context.
    """
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p)
    how |= dict(repetition_penalty=repetition_penalty, stop=stop, rng=rng)
    prompts = check_prompts(prompts, model.config.vocab)
    outputs = [[] for _ in prompts]
    steps = stream(model, prompts, max_new, **how)
    with computing(model):
        for tokens in tqdm(steps, "generate", max_new, delay=2, leave=False, disable=None):
            for row, token in tokens.items():
                outputs[row].append(token)
    return outputs


def stream(
    model, prompts, max_new=32, *, temperature=0.0, top_k=None, top_p=None,
    repetition_penalty=1.0, stop=None, rng=None,
):  # fmt: skip
    """Yields {row: new token id} as soon as each is known, for the rows that have not ended.

    Arguments and errors are those of `generate`, with the errors at the first token.
    """
    options = Sampling(*map(to_python, (temperature, top_k, top_p, repetition_penalty)))
    max_new, stop = to_python(max_new), to_python(stop)
    prompts = check_prompts(prompts, model.config.vocab)
    stop = check_options(max_new, options, stop, model.config.vocab)
    rng = np.random.default_rng(to_python(rng))
    T = max(map(len, prompts))
    attention_mask = np.array([[i >= T - len(prompt) for i in range(T)] for prompt in prompts])
    ids = np.array([[0] * (T - len(prompt)) + prompt for prompt in prompts])
    seen, unfinished = [list(prompt) for prompt in prompts], set(range(len(prompts)))
    with computing(model), no_grad():
        padded = not attention_mask.all()
        mask = attention_mask if padded else None
        logits, cache = model.read(ids, attention_mask=mask, last_only=True)
    if not stop:
        check_room(cache.length + max_new - 1, model.config.context)
    for remaining in reversed(range(max_new)):
        tokens = choose(to_numpy(logits.data[:, -1]), options, seen, rng)
        for row, token in enumerate(tokens):
            seen[row].append(int(token))
        yield {row: int(tokens[row]) for row in sorted(unfinished)}
        unfinished -= {row for row in unfinished if tokens[row] in stop}
        if not unfinished or not remaining or cache.length == model.config.context:
            return
        with computing(model), no_grad():
            logits, cache = model.read(tokens[:, None], cache, last_only=True)


class Sampling(NamedTuple):
    """How the next token is chosen; see `generate`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float


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


def check_options(max_new, options, stop, vocab):
    """Returns the stop tokens as a set.

    Raises ValueError for options of `generate` that are out of their range.
    """
    temperature, top_k, top_p, penalty = options
    if not (is_number(temperature) and 0 <= temperature < np.inf):
        raise ValueError(f"generate needs temperature ≥ 0, got {temperature!r}")
    for name, number in dict(max_new=max_new, top_k=1 if top_k is None else top_k).items():
        if type(number) is not int or number < 1:
            raise ValueError(f"generate needs a whole number {name} ≥ 1, got {number!r}")
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"generate needs 0 < top_p ≤ 1, got {top_p!r}")
    if not (is_number(penalty) and 0 < penalty < np.inf):
        raise ValueError(f"generate needs repetition_penalty > 0, got {penalty!r}")
    stop = () if stop is None else stop if isinstance(stop, tuple) else (stop,)
    for token in stop:
        if type(token) is not int or token not in range(vocab):
            raise ValueError(
                f"stop is a token of the vocabulary (0 … {vocab - 1}), or several; "
                f"got {token!r}"
            )
    return {*stop}


def is_number(x):
    """Returns whether x is a number, True and False aside."""
    return type(x) in (int, float)


def choose(logits, options, seen, rng):
    """Returns the next token id of each row, logits (B, V) -> (B,): most likely, or drawn.

    seen: for each row, the ids of its prompt and of what was written.
    """
    temperature, top_k, top_p, penalty = options
    if temperature == 0 and penalty == 1:
        return logits.argmax(axis=-1)
    z = logits.astype(np.float64)
    for row, ids in enumerate(seen if penalty != 1 else ()):
        ids = np.unique(ids)
        z[row, ids] = np.where(z[row, ids] > 0, z[row, ids] / penalty, z[row, ids] * penalty)
    if temperature == 0:
        return z.argmax(axis=-1)
    with np.errstate(over="ignore"):  # an overflow to −∞ is fine: such a token is never drawn
        z = (z - z.max(axis=-1, keepdims=True)) / temperature
    if top_k is not None and top_k < z.shape[-1]:
        z[z < np.sort(z, axis=-1)[:, -top_k, None]] = -np.inf
    if top_p is not None and top_p < 1:
        z[z < least_likely(z, top_p)] = -np.inf
    # Gumbel-max trick: the argmax of z plus Gumbel noise is a draw from softmax(z)
    return (z + rng.gumbel(size=z.shape)).argmax(axis=-1)


def least_likely(z, top_p):
    """Returns the score (B, 1) at which the most likely tokens reach probability top_p."""
    ordered = np.sort(z, axis=-1)[:, ::-1]
    p = np.exp(ordered - ordered[:, :1])
    reached = p.cumsum(axis=-1) >= top_p * p.sum(axis=-1, keepdims=True)
    return np.take_along_axis(ordered, reached.argmax(axis=-1)[:, None], axis=-1)
