"""Identity: what a result depends on, noted beside it and compared before it is used.

An adapter belongs to one base, a checkpoint to one run: the same base, adapters, data and
settings. Each is described by JSON values, and an error names the first that differs.
"""

import hashlib
import json
from dataclasses import asdict, fields

from ..engine.backend import np, to_numpy
from ..peft.base import adapters, base_parameters, in_use

WITHOUT_EFFECT = ("context", "dropout", "init_std")  # fields of a Config that change no logit


def fingerprint(model):
    """Returns the SHA-256 of the base: names, shapes and bytes, in hexadecimal.

    Adapters do not change it; merging one into the weights does.
    """
    return digest((path, p.data) for path, p in base_parameters(model))


def digest(named_arrays):
    """Returns the SHA-256 of (name, array) pairs, ordered by name, in hexadecimal."""
    found = hashlib.sha256()
    for name, array in sorted(named_arrays, key=lambda pair: pair[0]):
        found.update(f"{name} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(to_numpy(array)))
    return found.hexdigest()


def config_identity(config):
    """Returns the fields of a Config that change a logit and are not the default, as JSON.

    So what was written before a field existed is still the same.
    """
    values = json.loads(json.dumps(asdict(config)))
    changed = [f.name for f in fields(config) if getattr(config, f.name) != f.default]
    return {name: values[name] for name in changed if name not in WITHOUT_EFFECT}


def base_identity(model):
    """Returns what an adapter belongs to: the Config and the fingerprint of the base."""
    return {"config": config_identity(model.config), "fingerprint": fingerprint(model)}


def adapters_identity(model):
    """Returns the adapters in use, innermost first: names, methods, all options, and rows."""
    return [
        {
            "name": name,
            "method": adapters(model)[name].method.name,
            "options": json.loads(json.dumps(asdict(adapters(model)[name].method))),
            "rows": None if rows is None else np.asarray(rows).tolist(),
        }
        for name, rows in in_use(model).items()
    ]


def data_identity(data, size, seed):
    """Returns how many examples there are, and a digest of their ids and labels.

    Of data that only has batches, it is the digest of the first batch.
    """
    ids, labels = getattr(data, "ids", None), getattr(data, "labels", None)
    if ids is None or labels is None:
        ids, labels = data.batch(0, size, seed)
    pairs = [("ids", np.asarray(ids, "int64")), ("labels", np.asarray(labels, "int64"))]
    return {"examples": len(data), "digest": digest(pairs)}


def difference(theirs, ours, name=""):
    """Returns a sentence about the first value that differs between two identities, or None.

    >>> difference({"lr": 0.1, "base": {"tied": True}}, {"lr": 0.1, "base": {"tied": False}})
    'base.tied is True there and False here'
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = {key: (theirs.get(key), ours.get(key)) for key in [*ours, *theirs]}
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = dict(enumerate(zip(theirs, ours, strict=True)))
    else:
        same = json.dumps(theirs) == json.dumps(ours)
        return None if same else f"{name} is {short(theirs)} there and {short(ours)} here"
    parts = (difference(*pair, f"{name}.{key}".strip(".")) for key, pair in pairs.items())
    return next((part for part in parts if part), None)


def short(value):
    """Returns a value as text, a digest by its first letters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:12]}…"
