"""The picture of a model: its tree, what trains, what is attached."""

import minipeft as mp

SMALL = dict(vocab=7, context=8, width=4, layers=3, heads=2)

TREE = """\
Transformer
  wte                    weight (7, 4)
  wpe                    weight (8, 4) trains
  start
  drop
  blocks.0…2
    ln_1                 weight (4,)  bias (4,)
    attn
      q_proj             weight (4, 4)  bias (4,)
      k_proj             weight (2, 4)  bias (2,)
      v_proj             weight (2, 4)  bias (2,)
      attend
      o_proj             weight (4, 4)  bias (4,)
    ln_2                 weight (4,)  bias (4,)
    mlp
      up_proj            weight (5, 4)  bias (5,)
      down_proj          weight (4, 5)  bias (4,)
    drop
  ln_f                   weight (4,)  bias (4,)
  lm_head"""


def test_a_model_prints_as_a_tree():
    net = mp.Transformer(mp.Config.gpt2(**SMALL, kv_heads=1, ffn=5), 0)
    for p in net.parameters():
        p.requires_grad = p is net.wpe.weight
    assert repr(net) == TREE
    html = net._repr_html_()
    assert html.count("<b>") == 1 and "wpe" in html.split("<b>")[1].split("</b>")[0]
    net.blocks[1].mlp.up_proj.weight.requires_grad = True  # no longer like its neighbours
    assert [line.split()[0] for line in repr(net).split("\n") if "blocks" in line] == [
        "blocks.0",
        "blocks.1",
        "blocks.2",
    ]
    assert "(7, 4)" in repr(net.wte) and repr(net).count("trains") == 2


def test_the_tree_shows_what_is_attached():
    net = mp.Transformer(mp.Config.gpt2(**SMALL), 0)
    mp.attach(net, mp.LoRA(r=2, target_modules=("up_proj",)), name="<b>")
    lines = repr(net).split("\n")
    (line,) = (i for i, line in enumerate(lines) if "up_proj" in line)
    attached = "deltas.<b> lora_A (2, 4) trains lora_B (16, 2) trains"
    assert " ".join(lines[line + 1].split()) == attached
    assert [line for line in lines if "trains" in line] == lines[line + 1 : line + 2]
    assert "deltas.&lt;b&gt;" in net._repr_html_()
    mp.detach(net, "<b>")
    assert "deltas" not in repr(net)
