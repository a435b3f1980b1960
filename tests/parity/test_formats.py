"""An adapter's file holds HF PEFT's tensors, under its names once the modules' are HF's.

Modules have minipeft's own paths in the file (blocks.0.attn.q_proj); HF's differ by model.
"""

import re

import pytest
from hf import assert_close, hf_module, peft
from pairs import Pair
from safetensors.numpy import load_file

import minipeft as mp
from methods import ROWS, SPECS

SAME = [
    name
    for spec in SPECS.values()
    for name, row in spec.rows.items()
    if spec.exchanged and row.files.same
]


def hf_name(name, config):
    """HF's name for an array in a file of ours."""
    match = re.fullmatch(r"base_model\.model\.(.*?)(\.\w+(?:\.weight)?)", name)
    return f"base_model.model.{hf_module(match[1], config)}{match[2]}" if match else name


@pytest.mark.parametrize("row", SAME)
def test_tensors_of_the_file(row, tmp_path):
    pair = Pair(ROWS[row], "float64").shake()
    folder = mp.save_adapter(pair.ours, "default", tmp_path)
    ours = load_file(folder / "adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(pair.theirs)
    theirs = {name: a for name, a in theirs.items() if pair.row.files.beside not in name}
    assert_close({hf_name(n, pair.config): a for n, a in ours.items()}, theirs, 1e-12)
