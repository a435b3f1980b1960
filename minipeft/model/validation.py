"""Validates token ids, attention masks and labels before a model reads them."""

from ..engine.backend import np
from ..engine.functional import IGNORE


def check_ids(ids, vocab):
    """Returns token ids as a (B, T) array of integers in [0, vocab).

    Raises ValueError for ids of another shape or type, none at all, or one out of the range.
    """
    ids = rectangular("token ids", ids)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"token ids come as a non-empty (B, T) array, got shape {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise ValueError(f"token ids are integers, got {ids.dtype}")
    bad = out_of_range(ids, vocab)
    if bad is not None:
        raise ValueError(f"token id {bad} is not in the vocabulary (0 … {vocab - 1})")
    return ids


def check_attention_mask(attention_mask, shape):
    """Returns an attention mask as (B, T) booleans, False at padding; None stays None.

    Raises ValueError unless it has the shape of the token ids and holds booleans, or 0 and 1.
    """
    if attention_mask is None:
        return None
    attention_mask = rectangular("attention_mask", attention_mask)
    if attention_mask.shape != shape:
        raise ValueError(
            f"attention_mask has shape {attention_mask.shape}, its token ids {shape}; "
            "give both the same shape"
        )
    bad = attention_mask[(attention_mask != 0) & (attention_mask != 1)]
    if bad.size:
        raise ValueError(
            f"attention_mask is 1 at tokens and 0 at padding, got {bad.tolist()[0]!r}"
        )
    return attention_mask == 1


def rectangular(name, rows):
    """Returns rows of numbers as an array; raises ValueError for rows of unequal lengths."""
    try:
        return np.asarray(rows)
    except ValueError:
        text = f"the rows of {name} have unequal lengths"
        raise ValueError(f"{text}; pad them, and pass an attention_mask") from None


def check_labels(labels, shape, vocab):
    """Returns labels (B, T) as an array: each a token id, or IGNORE where nothing is learnt.

    Raises ValueError for another shape or type, an id that is not in the vocabulary, or labels
    that are all IGNORE.
    """
    labels = rectangular("labels", labels)
    if labels.shape != shape:
        raise ValueError(
            f"labels have shape {labels.shape}, their token ids {shape}; "
            "give both the same shape"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are integers, got {labels.dtype}")
    labelled = labels[labels != IGNORE]
    if not labelled.size:
        raise ValueError(f"all labels are padding ({IGNORE}): there is nothing to learn from")
    bad = out_of_range(labelled, vocab)
    if bad is not None:
        raise ValueError(f"label {bad} is no token (0 … {vocab - 1}) and no padding ({IGNORE})")
    return labels


def out_of_range(ids, vocab):
    """Returns a token id that is not in [0, vocab), or None if all are."""
    low, high = int(ids.min()), int(ids.max())
    return low if low < 0 else high if high >= vocab else None
