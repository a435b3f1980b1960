"""Adapters of matrices that Hugging Face holds as one, such as c_attn of GPT-2.

    [q; k; v] = W x          one matrix there, three here, each with its rows of W

A change of the whole changes each part. Read from there, the rows of B are split, and each part
has a copy of A. Written from here, parts of equal A become one change of the same rank; parts
of different A become one whose rank is the sum,

    B A = [B_q 0 0; 0 B_k 0; 0 0 B_v] [A_q; A_k; A_v]

which computes the same.
"""

from ..engine.backend import np, to_numpy

# arrays whose rows belong to the outputs; all other arrays are of the inputs
ROWS = ("lora_B", "lora_magnitude_vector", "ia3_l", "hada_w1_a", "hada_w2_a", "hira_B")
ROWS += ("bias", "boft_s")
LOW_RANK = ({"lora_A", "lora_B"}, {"lora_A", "lora_B", "lora_magnitude_vector"})


def check_splits(method, there):
    """Raises ValueError for a method that has no form on a part of a matrix."""
    if method.hf_whole:
        raise ValueError(
            f"{there} is one matrix in HF's model and several here, and "
            f"{type(method).__name__} has no form on a part of it; choose other target modules"
        )


def common_form(parts, family, heads):
    """Returns the arrays that a file has if it is of the whole matrix.

    parts: [{name: array}] of its parts in order, equal but for the rows of their outputs.
    """
    return {
        name: family.join([to_numpy(part[name]) for part in parts], heads)
        if is_of_rows(name, array)
        else array
        for name, array in parts[0].items()
    }


def is_of_rows(name, array):
    """Returns whether an array's rows belong to the outputs, and not to the inputs."""
    return name in ROWS and not (name == "ia3_l" and len(array) == 1)


def part_of(array, name, index, sizes, family, heads):
    """Returns the part of an array that belongs to the part of a matrix at an index."""
    return family.split(array, sizes, heads)[index] if is_of_rows(name, array) else array


def fused(method, there, parts, sizes, family, heads):
    """Returns the arrays of the whole matrix, given those of its parts; None: not changed.

    Raises ValueError if no change of the whole computes the same.
    """
    biases = [None if part is None else part.get("bias") for part in parts]
    changes = [{n: a for n, a in (part or {}).items() if n != "bias"} or None for part in parts]
    arrays = change_of(method, there, changes, sizes, family, heads) if any(changes) else {}
    if all(bias is None for bias in biases):
        return arrays
    if any(bias is None for bias in biases):
        raise ValueError(
            f"{there} is one matrix in HF's model with one bias, and only a part of it trains; "
            "use bias='all', or target all of its parts"
        )
    return arrays | {"bias": family.join([to_numpy(bias) for bias in biases], heads)}


def change_of(method, there, parts, sizes, family, heads):
    """Returns the arrays of the whole matrix without its bias, as `fused` does."""
    given = [part for part in parts if part is not None]
    filled = [
        unchanged(method, there, given[0], size) if part is None else part
        for part, size in zip(parts, sizes, strict=True)
    ]
    inputs = [name for name, a in given[0].items() if not is_of_rows(name, a)]
    if all(same(part[name], given[0][name]) for part in given for name in inputs):
        return common_form(filled, family, heads)
    if {*given[0]} not in LOW_RANK:
        raise ValueError(
            f"{there} is one matrix in HF's model, and {type(method).__name__} has changed its "
            "parts in ways that no change of the whole computes; save_adapter can save it"
        )
    of_rank_0 = [part is None for part in parts]
    return block_form(filled, of_rank_0, family, heads)


def block_form(parts, of_rank_0, family, heads):
    """Returns the arrays of one low-rank change whose rank is the sum of those of the parts.

    of_rank_0 says of each part whether it does not change.
    """
    parts = [
        part | {"lora_A": part["lora_A"][:0], "lora_B": part["lora_B"][:, :0]} if zero else part
        for part, zero in zip(parts, of_rank_0, strict=True)
    ]
    ranks = [len(part["lora_A"]) for part in parts]
    ends = np.cumsum(ranks)
    blocks = []
    for part, rank, end in zip(parts, ranks, ends, strict=True):
        b = to_numpy(part["lora_B"])
        wide = np.zeros((len(b), ends[-1]), b.dtype)
        wide[:, end - rank : end] = b
        blocks.append(part | {"lora_B": wide})
    arrays = common_form(blocks, family, heads)
    return arrays | {"lora_A": np.concatenate([to_numpy(part["lora_A"]) for part in parts])}


def unchanged(method, there, like, size):
    """Returns the arrays of a part that does not change, `size` rows."""
    arrays = {name: to_numpy(a) for name, a in like.items()}
    if {*arrays} == {"lora_A", "lora_B"}:
        a, b = arrays["lora_A"], arrays["lora_B"]
        return {"lora_A": a, "lora_B": np.zeros((size, b.shape[1]), b.dtype)}
    if {*arrays} == {"ia3_l"} and is_of_rows("ia3_l", arrays["ia3_l"]):
        return {"ia3_l": np.ones((size, 1), arrays["ia3_l"].dtype)}
    raise ValueError(
        f"{there} is one matrix in HF's model; target all of its parts with "
        f"{type(method).__name__}, or none"
    )


def same(a, b):
    """Returns whether two arrays are equal."""
    return a.shape == b.shape and bool((to_numpy(a) == to_numpy(b)).all())
