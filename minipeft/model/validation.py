"""Validates token ids, attention masks and labels before a model reads them."""

from ..engine.backend import np
from ..engine.functional import IGNORE


def check_ids(ids, vocab):
    """Token ids as a (B, T) array of integers in [0, vocab); ValueError for anything else."""
    try:
        ids = np.asarray(ids)
    except ValueError:
        raise ValueError(
            "the rows of token ids have unequal lengths; pad them, and pass an attention_mask"
        ) from None
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"token ids come as a non-empty (B, T) array, got shape {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise ValueError(f"token ids are integers, got {ids.dtype}")
    bad = outside(ids, vocab)
    if bad is not None:
        raise ValueError(f"token id {bad} is not in the vocabulary (0 … {vocab - 1})")
    return ids


def check_attention_mask(attention_mask, shape):
    """An attention mask as (B, T) booleans, False at padding; None stays None."""
    if attention_mask is None:
        return None
    attention_mask = np.asarray(attention_mask, dtype=bool)
    if attention_mask.shape != shape:
        raise ValueError(
            f"attention_mask has shape {attention_mask.shape}, its token ids {shape}; use one"
        )
    return attention_mask


def check_labels(labels, shape, vocab):
    """Labels as an array of a shape, each a token id or IGNORE and at least one a token id."""
    labels = np.asarray(labels)
    if labels.shape != shape:
        raise ValueError(f"labels have shape {labels.shape}, their token ids {shape}; use one")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are integers, got {labels.dtype}")
    asked = labels[labels != IGNORE]
    if not asked.size:
        raise ValueError(f"all labels are padding ({IGNORE}): there is nothing to learn from")
    bad = outside(asked, vocab)
    if bad is not None:
        raise ValueError(f"label {bad} is no token (0 … {vocab - 1}) and no padding ({IGNORE})")
    return labels


def outside(ids, vocab):
    """A token id that is not in [0, vocab), or None."""
    low, high = int(ids.min()), int(ids.max())
    return low if low < 0 else high if high >= vocab else None
