"""Where a command may write: never over a model, another adapter, or a file that is in use.

`minipeft tune` writes to a folder that has none of these, or that holds a run of its command
that was stopped; `minipeft merge` to a new file, or to a folder that is new or empty; and
`minipeft pretrain` over no model but that of an earlier run.
"""

from ..io.files import as_path, read_json

CHECKPOINT = "run.safetensors"  # of an unfinished run, deleted when it is complete
REPORT = "tune.json"  # of a run of `minipeft tune`
METRICS = "metrics.json"  # of a run of `minipeft pretrain`
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
MODELS = ("config.json", "*.safetensors", "*.gguf", "*.bin")


def check_run_folder(out):
    """Raises ValueError if a folder holds a model, or an adapter that no run would continue."""
    out = as_path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder as --out")
    there = sorted(file.name for pattern in MODELS for file in out.glob(pattern))
    model = next((name for name in there if name not in (*ADAPTER, CHECKPOINT)), None)
    if model is not None:
        raise ValueError(
            f"{out} holds a model ({model}), which transformers would not load with an adapter "
            "in the same folder; give another --out"
        )
    report = out / REPORT
    if report.is_file() and not read_json(report).get("stopped"):
        raise ValueError(f"{out} holds a finished adapter; give another --out, or remove it")
    adapter = next((name for name in ADAPTER if (out / name).exists()), None)
    if adapter is not None and not (out / CHECKPOINT).is_file():
        raise ValueError(
            f"{out} holds an adapter ({adapter}) and no {CHECKPOINT} to go on from; give "
            "another --out, or remove it"
        )


def check_backbone_folder(out):
    """Raises ValueError if a folder holds a model that `minipeft pretrain` did not write."""
    out = as_path(out)
    ours = (out / METRICS).is_file() or (out / CHECKPOINT).is_file()
    there = next((name for name in ("config.json", *ADAPTER) if (out / name).exists()), None)
    if there is not None and not ours:
        raise ValueError(f"{out} holds another model or adapter ({there}); give another --out")


def check_new(out):
    """Raises ValueError if there is a file, or a folder with anything in it."""
    out = as_path(out)
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        kind = "a folder with files in it" if out.is_dir() else "a file"
        raise ValueError(
            f"{out} is {kind}, and nothing is replaced; give a new OUT, or remove it"
        )
