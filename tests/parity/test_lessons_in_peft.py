"""The Python of every lesson's "In HF PEFT" runs with live PyTorch, transformers and PEFT.

Its first line says what `model` is: `# model: LlamaForCausalLM`, `# model: GPT2LMHeadModel`, or
`# model: none` where the block makes its own.
"""

import json
import re
from pathlib import Path

import pytest

reason = "the blocks need torch, transformers and peft: pip install '.[parity]'"
torch = pytest.importorskip("torch", reason=reason)
transformers = pytest.importorskip("transformers", reason=reason)
pytest.importorskip("peft", reason=reason)

LESSONS = sorted((Path(__file__).parents[2] / "lessons").glob("[0-9][0-9]_*.ipynb"))
SIZES = dict(vocab_size=64, bos_token_id=0, eos_token_id=1, pad_token_id=2)
MODELS = {
    "LlamaForCausalLM": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, **SIZES,
        )
    ),
    "GPT2LMHeadModel": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **SIZES)
    ),
    "none": lambda: None,
}  # fmt: skip


def block(path):
    """The Python under "In HF PEFT" of a lesson, between that heading and the next."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    part = re.split(r"^## ", prose.partition("## In HF PEFT\n")[2], flags=re.M)[0]
    found = re.findall(r"^```python\n(.*?)^```$", part, re.M | re.S)
    assert len(found) == 1, f"{path.name} has {len(found)} python blocks under In HF PEFT"
    return found[0]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_block_runs(path, tmp_path, monkeypatch):
    source = block(path)
    named = re.match(r"# model: (\w+)\n", source)
    assert named and named[1] in MODELS, f"the first line is # model: {' or '.join(MODELS)}"
    monkeypatch.chdir(tmp_path)  # some save an adapter
    torch.manual_seed(0)
    exec(
        compile(source, path.name, "exec"), {"model": MODELS[named[1]](), "__name__": path.stem}
    )
