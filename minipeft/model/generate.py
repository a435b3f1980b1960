"""Writing with a model, one token at a time; the past is read from a cache."""

from tqdm import tqdm

from ..engine.backend import np, to_numpy
from ..engine.tensor import no_grad
from .validation import check_ids


def generate(model, prompts, max_new=32, *, temperature=0.0, top_k=None, stop=None, rng=None):
    """Continue each prompt by up to `max_new` tokens; returns a list of lists of new token ids.

    prompts: lists of token ids, of any lengths; shorter ones are padded on the left, unnoticed.
    temperature: 0 takes the likeliest token; otherwise one is drawn, with `rng` (a seed or a
    Generator), from softmax(logits / temperature) over the `top_k` likeliest, or over all.
    stop: a row ends with this token, which is kept.

    Raises ValueError for what is no prompt or no such option, and where the context ends before
    the last token is written: at once if there is no `stop`.
    """
    prompts = check_prompts(prompts, model.config.vocab)
    check_options(max_new, temperature, top_k, stop, model.config.vocab)
    rng = np.random.default_rng(rng)
    T = max(map(len, prompts))
    attention_mask = np.array([[i >= T - len(prompt) for i in range(T)] for prompt in prompts])
    ids = np.array([[0] * (T - len(prompt)) + prompt for prompt in prompts])
    written, going = [[] for _ in prompts], set(range(len(prompts)))
    steps = tqdm(reversed(range(max_new)), "write", max_new, delay=2, leave=False, disable=None)
    with no_grad(), steps:
        padded = not attention_mask.all()
        logits, cache = model.read(ids, attention_mask=attention_mask if padded else None)
        if stop is None:
            check_room(cache.length + max_new - 1, model.config.context)
        for left in steps:
            new = choose(to_numpy(logits.data[:, -1]), temperature, top_k, rng)
            for row in sorted(going):
                written[row].append(int(new[row]))
                if new[row] == stop:
                    going.discard(row)
            if not going or not left:
                break
            logits, cache = model.read(new[:, None], cache)
    return written


def check_prompts(prompts, vocab):
    """Prompts as lists of token ids; ValueError for anything else."""
    given = list(prompts) if np.iterable(prompts) else []
    if not given or not all(hasattr(prompt, "__len__") and len(prompt) for prompt in given):
        text = "generate needs at least one prompt, and each with at least one token id"
        raise ValueError(f"{text}, such as [[1, 2], [3]], got {prompts!r}")
    return [check_ids([prompt], vocab)[0].tolist() for prompt in given]


def check_room(slots, context):
    """Raise ValueError for more slots than a context has."""
    if slots > context:
        raise ValueError(
            f"{slots} slots are {slots - context} more than the context of {context}; "
            f"lower max_new by {slots - context}, or shorten the prompts"
        )


def check_options(max_new, temperature, top_k, stop, vocab):
    """Raise ValueError for what no token can be chosen by."""
    warm = isinstance(temperature, (int, float, np.number)) and 0 <= temperature < np.inf
    if not (warm and counts(max_new) and (top_k is None or counts(top_k))):
        raise ValueError(
            "generate needs temperature ≥ 0 and whole numbers top_k ≥ 1 and max_new ≥ 1, "
            f"got {temperature}, {top_k} and {max_new}"
        )
    if stop is not None and stop not in range(vocab):
        raise ValueError(f"stop is a token of the vocabulary (0 … {vocab - 1}), got {stop!r}")


def counts(n):
    """Whether n is a whole number ≥ 1."""
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1


def choose(logits, temperature, top_k, rng):
    """One token id for each row of logits (B, V)."""
    if temperature == 0:
        return logits.argmax(axis=-1)
    z = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # to −∞, which is never drawn
        z = (z - z.max(axis=-1, keepdims=True)) / temperature
    if top_k is not None and top_k < z.shape[-1]:
        z[z < np.sort(z, axis=-1)[:, -top_k, None]] = -np.inf
    # the largest of z plus Gumbel noise is a draw from softmax(z)
    return (z + rng.gumbel(size=z.shape)).argmax(axis=-1)
