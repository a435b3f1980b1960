"""The ledger's predictions against real models, arrays and products; and what they teach."""

import contextlib
import json
import time
import tracemalloc

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import minipeft as mp
from counted import counted, counting
from minipeft.__main__ import main
from minipeft.engine.backend import np
from minipeft.lab import presets
from minipeft.lab.saved_tensors import buffers, tape_arrays
from minipeft.model.gradient_checkpointing import recomputing
from minipeft.model.layers import RowRNG
from minipeft.train.batch_gradient import batch_gradient, chunked_loss
from minipeft.train.optimizers import make_optimizers
from strategies import batch, by_turns, configs, model
from test_laws import cases

SEVEN = presets.config("llama-2-7b")
LORA = mp.LoRA(r=16)
BARE = "the bare base, {} of which trains"


def tape_of(net, ids, labels, recompute=False):
    """Bytes that the tape of a real training step holds before backward."""
    less = recomputing(net) if recompute else contextlib.nullcontext()
    with less, net.training(RowRNG((0,), np.arange(len(ids)))):
        loss = chunked_loss(net, ids, labels)
        return sum(a.nbytes for a in tape_arrays(loss, net.parameters()))


def weights_of(net):
    """Bytes of all arrays of a model and of what is attached, each once, less averages."""
    deltas = [d for a in mp.adapters(net).values() for d in a.deltas.values()]
    averages = {id(b) for d in deltas for b in buffers(*d.state().values())}
    held = buffers(*net.parameters(), *(list(vars(d).values()) for d in deltas))
    kept_aside = [p for a in mp.adapters(net).values() for p in a.originals.values() if p]
    aside = {id(b) for b in buffers(*kept_aside)}
    return sum(b.nbytes for b in held if id(b) not in averages | aside)


def step(net, ids, labels, parts):
    """(bytes of gradients, bytes of the optimisers' state) of a real step."""
    trains = [p for p in net.parameters() if p.requires_grad]
    optimizers = make_optimizers(net)
    batch_gradient(net, ids, labels, parts, seed=(0,))
    gradients = sum(p.grad.nbytes for p in trains if p.grad is not None)
    for optimizer in optimizers:
        optimizer.step(0.01)
    states = [kind for optimizer in optimizers for kind in optimizer.state.values()]
    return gradients, sum(a.nbytes for arrays in states for a in arrays)


def agrees(found, net, ids, labels, recompute=False, parts=1):
    """Assert that a Ledger tells bytes and FLOPs of a real step to the last one."""
    less = recomputing(net) if recompute else contextlib.nullcontext()
    rows = -(-len(ids) // min(parts, len(ids)))
    assert found.tape == tape_of(net, ids[:rows].copy(), labels[:rows].copy(), recompute)
    assert found.weights == weights_of(net)
    assert (found.gradients, found.optimiser) == step(net, ids, labels, parts)
    assert found.summed == (found.gradients if min(parts, len(ids)) > 1 else 0)
    parts_of_total = found.weights, found.gradients, found.summed, found.optimiser, found.tape
    assert found.total == sum(parts_of_total) + found.rebuilt
    net.zero_grad()
    with counting() as flops, less:
        batch_gradient(counted(net), ids, labels, parts, seed=(0,))
    assert found.flops == flops
    assert found.trainable_parameters == sum(
        p.data.size for p in net.parameters() if p.requires_grad
    )


def pytest_generate_tests(metafunc):
    """Every method on both shapes if thorough, else by turns on one of them."""
    if metafunc.function is test_every_byte_and_product_of_a_step_is_predicted:
        cases = by_turns(metafunc.config, mp.METHODS, ("gpt2", "llama"))
        metafunc.parametrize("name, shape", cases, ids=map("-".join, cases))


def test_every_byte_and_product_of_a_step_is_predicted(name, shape):
    @settings(max_examples=2, phases=[Phase.generate])
    @given(cases(name, shape), st.booleans(), st.integers(1, 3))
    def property(case, recompute, parts):
        case = case.in_float32()
        how = {"batch": case.rows, "seq": case.tokens, "recompute": recompute}
        found = mp.ledger(case.config, case.method, accumulate=parts, **how)
        net, _ = case.attached("a")
        assert mp.ledger(net, accumulate=parts, **how).as_dict() == found.as_dict() | {
            "method": mp.ledger(net, seq=1).method
        }
        agrees(found, net, *case.batch(), recompute, parts)

    property()


@pytest.mark.parametrize("kind, bits", [("int8", 8), ("nf4", 4)])
@pytest.mark.parametrize("name", ["full", "lora", "dora", "ia3", "prefix"])
def test_a_base_in_few_bits_is_predicted_too(name, kind, bits):
    method = mp.METHODS[name]()
    config = mp.Config.llama(vocab=29, context=32, width=40, layers=2, heads=5, ffn=23)
    net = model(config, precision="float32")
    mp.quantize(net, kind)
    mp.attach(net, method)
    found = mp.ledger(config, method, batch=2, seq=7, base_bits=bits)
    ids, labels = (a.copy() for a in batch(config, 2, 7))
    assert found.tape == tape_of(net, ids, labels) == mp.ledger(net, batch=2, seq=7).tape
    assert found.weights == weights_of(net) == mp.ledger(net, batch=2, seq=7).weights
    assert (found.gradients, found.optimiser) == step(net, ids, labels, 1)


@given(configs(), st.booleans())
def test_a_bare_base_trains_all_of_itself_and_a_frozen_one_nothing(config, recompute):
    net = model(config, precision="float32")
    agrees(mp.ledger(config, batch=2, seq=3, recompute=recompute), net,
           *batch(config, 2, 3), recompute)  # fmt: skip
    full, bare = mp.ledger(config, mp.Full(), seq=3), mp.ledger(config, seq=3)
    assert (full.total, full.flops) == (bare.total, bare.flops)
    assert (full.beside["set aside"], bare.beside["set aside"]) == (4 * config.size, 0)
    frozen = mp.ledger(config, "frozen", seq=3)
    assert (frozen.total, frozen.weights) == (4 * config.size, 4 * config.size)
    assert frozen.trainable_parameters == frozen.flops["backward"] == 0
    assert mp.ledger(net, "frozen", seq=3).kept == {}
    assert (bare.method, frozen.method) == (BARE.format("all"), "nothing trains")
    net.wte.weight.requires_grad = False
    assert mp.ledger(net, seq=3).method == BARE.format("part")
    for p in net.parameters():
        p.requires_grad = False
    assert mp.ledger(net, seq=3).method == "nothing trains"


def test_parts_of_a_batch_with_chosen_rows_are_refused():
    net = mp.load_base()
    mp.attach(net, mp.LoRA(r=1), "a")
    mp.use(net, rows=["a", None] * 2)
    with pytest.raises(ValueError, match="must be read whole"):
        mp.ledger(net, batch=4, seq=4, accumulate=2)
    assert mp.ledger(net, batch=4, seq=4).trainable_parameters


def test_dropout_keeps_a_byte_for_each_number_that_it_may_drop():
    config = mp.Config.gpt2(vocab=29, context=32, width=40, layers=2, heads=5, dropout=0.1)
    for method in (mp.Full(), mp.LoRA(lora_dropout=0.1)):
        net = model(config, precision="float32")
        mp.attach(net, method)
        found = mp.ledger(config, method, batch=2, seq=7)
        assert found.tape == tape_of(net, *(a.copy() for a in batch(config, 2, 7)))
    # two a block, and two of LoRA's own in the second: below the first nothing has a gradient
    assert found.tape_by_op["dropout"] == (2 + 4) * 2 * 7 * 40


def test_a_model_is_told_as_it_stands_and_left_so():
    config = mp.Config.gpt2(vocab=29, context=32, width=40, layers=2, heads=5)
    net = model(config, precision="float64")
    mp.attach(net, mp.VeRA(r=4), "vera")
    mp.attach(net, mp.AdaLoRA(init_r=4, target_r=2), "adalora")
    mp.use(net, ["vera", "adalora"])
    before = {path: p.data.copy() for path, p in net.named_parameters()}
    found = mp.ledger(net, batch=2, seq=7)
    ids, labels = (a.copy() for a in batch(config, 2, 7))
    assert (
        found.policy == "float64"
        and found.method == "VeRA(r=4) and AdaLoRA(init_r=4, target_r=2)"
    )
    assert (found.tape, found.weights) == (tape_of(net, ids, labels), weights_of(net))
    averages = [d.state().values() for d in mp.adapters(net)["adalora"].deltas.values()]
    assert found.beside["running averages"] == sum(a.nbytes for s in averages for a in s)
    assert (found.gradients, found.optimiser) == step(net, ids, labels, 1)
    mp.ledger(net, mp.Full(), seq=7)
    assert mp.in_use(net).keys() == {"vera", "adalora"} and len(mp.adapters(net)) == 2
    fresh = model(config, precision="float64")
    assert all((p.data == before[path]).all() for path, p in fresh.named_parameters())
    rows = mp.use(net, rows=["vera", None]) or mp.ledger(net, batch=2, seq=7)
    assert rows.tape == tape_of(net, ids, labels)
    with pytest.raises(ValueError, match="2 rows, the batch has 3"):
        mp.ledger(net, batch=3, seq=7)
    with pytest.raises(ValueError, match="base of 'vera', 'adalora' would change"):
        mp.ledger(net, seq=7, base_bits=4)


def test_what_is_no_model_or_no_method_is_refused():
    with pytest.raises(TypeError, match="a Config or a Transformer"):
        mp.ledger(presets.architecture("bert-base"), mp.LoRA())
    with pytest.raises(TypeError, match="LoRA"):
        mp.ledger(SEVEN, "lora")


def test_seven_billion_numbers_take_no_memory_and_no_time():
    mp.ledger(
        mp.Config.llama(vocab=9, context=9, width=8, layers=1, heads=2), LORA.__class__(r=2)
    )
    tracemalloc.start()
    began = time.process_time()
    found = mp.ledger(SEVEN, LORA, batch=8, seq=4096, policy="bf16")
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.total > 100e9 and peak < 20e6
    assert seconds < 10  # a fraction of a second, but traced and on a busy machine


def test_bf16_halves_what_is_read_and_adds_a_master_of_what_trains():
    for method in (mp.Full(), mp.LoRA(), mp.BitFit()):
        config = mp.Config.gpt2(vocab=29, context=32, width=40, layers=2, heads=5)
        wide, half = (mp.ledger(config, method, seq=7, policy=p) for p in ("fp32", "bf16"))
        assert wide.as_dict() == mp.ledger(config, method, seq=7).as_dict() | {"policy": "fp32"}
        assert (2 * half.weights, 2 * half.gradients) == (wide.weights, wide.gradients)
        assert half.optimiser_of["moments"] == wide.optimiser_of["moments"]
        assert half.optimiser_of["master"] == 4 * half.trainable_parameters
        ids = 8 * 7 * (1 + 1) * (method == mp.Full())  # whole numbers stay what they are
        assert 2 * (half.tape - ids) == wide.tape - ids


def test_the_worked_example_of_seven_billion():
    full, lora, qlora = (
        mp.ledger(SEVEN, method, seq=512, policy="bf16", base_bits=bits)
        for method, bits in ((mp.Full(), None), (LORA, None), (LORA, 4))
    )
    assert full.base_parameters == full.trainable_parameters == 6_738_415_616
    assert full.weights == full.gradients == 2 * 6_738_415_616  # 13.5 GB each
    assert full.optimiser == (8 + 4) * 6_738_415_616
    assert round((full.total - full.tape) / 1e9, 1) == 107.8
    assert lora.trainable_parameters == 8_388_608
    state = lora.weights_of["adapter"] + lora.gradients + lora.optimiser
    assert state == 16 * 8_388_608 and round(state / 1e9, 2) == 0.13
    assert round((lora.total - lora.tape) / 1e9, 1) == 13.6
    assert round(qlora.weights / 1e9, 1) == 3.9 and qlora.tape == lora.tape


@pytest.mark.parametrize("shape", [mp.Config.gpt2, mp.Config.llama])
def test_lora_barely_shrinks_the_tape_but_drops_inputs_of_frozen_matrices(shape):
    config = shape(vocab=1000, context=64, width=256, layers=8, heads=8)
    full, lora = (mp.ledger(config, m, batch=4, seq=64) for m in (mp.Full(), mp.LoRA(r=8)))
    rows, ups = 4 * 64, 2 if config.mlp == "swiglu" else 1
    assert 0.6 < lora.tape / full.tape < 0.85  # of what trains it has 1 %
    assert lora.trainable_parameters < 0.02 * full.trainable_parameters
    for op in ("attention", "gelu", "silu"):
        assert abs(full.tape_by_op.get(op, 0) - lora.tape_by_op.get(op, 0)) <= rows * 256 * 4
    # of each block's inputs it keeps that of q and v, and what A makes of it twice
    dropped = 8 * rows * (256 + 256 + config.ffn) * 4  # of o, of up (and gate), of down
    thin = 8 * 2 * rows * 8 * 4
    kept = full.tape_by_op["linear"] - lora.tape_by_op["linear"]
    assert ups and kept == dropped - thin


def test_ia3_trains_fewer_numbers_than_lora_and_keeps_more():
    for shape in (mp.Config.gpt2, mp.Config.llama):
        config = shape(vocab=1000, context=64, width=256, layers=4, heads=8)
        ia3, lora = (mp.ledger(config, m, batch=4, seq=64) for m in (mp.IA3(), mp.LoRA(r=8)))
        assert ia3.trainable_parameters < lora.trainable_parameters / 3
        assert ia3.tape > lora.tape


def test_lora_saves_the_third_of_the_products_that_makes_dw_and_no_more():
    full, lora = (mp.ledger(SEVEN, m, seq=512) for m in (mp.Full(), mp.LoRA(r=8)))
    forward = full.flops["forward"]
    assert full.flops["backward"] == pytest.approx(2 * forward, rel=0.01)  # dx and dw
    assert lora.flops["backward"] == pytest.approx(forward, rel=0.02)  # dx
    share = sum(lora.flops.values()) / sum(full.flops.values())
    assert 2 / 3 < share < 0.68


def test_below_the_first_number_that_trains_there_is_no_tape():
    config = mp.Config.gpt2(vocab=50, context=32, width=64, layers=4, heads=4)
    head = mp.ledger(config, mp.Head(), seq=16)
    assert head.tape_by_layer.keys() == {"head"}
    assert mp.ledger(config, mp.LastK(2), seq=16).tape_by_layer.keys() == {"2", "3", "head"}
    last = mp.ledger(config, mp.LoRA(layers_to_transform=(3,)), seq=16)
    whole = mp.ledger(config, mp.LoRA(), seq=16)
    assert last.tape < whole.tape / 3 and last.flops["backward"] < whole.flops["backward"] / 2


def test_a_prompt_lengthens_every_sequence():
    config = mp.Config.gpt2(vocab=50, context=64, width=64, layers=4, heads=4)
    prompt = mp.ledger(config, mp.Prompt(num_virtual_tokens=16), seq=16)
    short, long = (mp.ledger(config, "frozen", seq=n).flops["forward"] for n in (16, 32))
    logits = 2 * 16 * 50 * 64  # of the virtual tokens, which are not made
    norm = 2 * 16 * 64
    assert prompt.flops["forward"] == long - logits - norm > 1.8 * short
    assert (
        mp.ledger(config, mp.Prompt(num_virtual_tokens=60)).seq == 4
    )  # what there is room for
    with pytest.raises(ValueError, match="context of 64"):
        mp.ledger(config, mp.Prompt(num_virtual_tokens=60), seq=5)


def test_the_command_tells_what_the_function_does(capsys):
    model = "--model llama-2-7b --method lora --r 16 --targets q_proj,v_proj".split()
    assert main(["ledger", *model, *"--batch 1 --seq 512 --base-bits 4 --json".split()]) == 0
    told = json.loads(capsys.readouterr().out)
    found = mp.ledger(SEVEN, LORA, seq=512, policy="fp32", base_bits=4)
    assert told == json.loads(json.dumps(found.as_dict()))
    assert told["trainable_parameters"] == 8_388_608
    parts = ("weights", "gradients", "optimiser", "tape", "rebuilt")
    assert told["total"] == sum(told[name] for name in parts)
    assert (
        told["tape"] == sum(told["tape_by_op"].values()) == sum(told["tape_by_layer"].values())
    )
    sizes = "--layers 2 --width 64 --heads 4 --vocab 99 --shape gpt2 --context 32".split()
    assert main(["ledger", *sizes, "--method", "frozen"]) == 0
    text = capsys.readouterr().out
    assert "nothing trains" in text and "100.0 %" in text


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ("--model llama-2-7c", "llama-2-7b"),
        ("--model bert-base", "not of this package's shape"),
        ("--model gpt2 --policy fp16", "bf16"),
        ("--model gpt2 --base-bits 5", "8 or 4"),
        ("--model gpt2 --batch 0", "batch must be a whole number"),
        ("--model gpt2 --seq 1025", "context of 1024"),
        ("--model gpt2 --r 1000", "lower r"),
        ("--model gpt2 --targets nope", "nope"),
        ("--model gpt2 --method nope", "nope"),
        ("--model gpt2 --method frozen --r 4", "frozen has no hyper-parameters"),
        ("--model gpt2 --method frozen --set a=1", "frozen has no hyper-parameters"),
        ("--model gpt2 --plot x.png --json", "leave out --json"),
        ("--model gpt2 --plot x.png --seq 1000", "seq can be at most 992, got 1000"),
        (f"--layers 2 --width 8 --heads 2 --vocab 1{30 * '0'}", "larger than what the machine"),
        (f"--layers 2 --width 8 --heads 2 --vocab 1{18 * '0'}", "larger than what the machine"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, complaint, capsys):
    assert main(["ledger", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_the_picture_has_a_bar_for_each_method_and_its_numbers_beside_it(tmp_path, capsys):
    from matplotlib.container import BarContainer

    from minipeft.lab.ledger import COMPARED
    from minipeft.lab.ledger_plot import bars, message
    from minipeft.lab.ledger_table import human

    path = tmp_path / "memory.png"
    sizes = "--layers 2 --width 512 --heads 4 --vocab 999 --seq 8 --base-bits 8".split()
    assert main(["ledger", *sizes, "--plot", str(path)]) == 0
    rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert path.read_bytes().startswith(b"\x89PNG") and rows.keys() == COMPARED.keys()
    assert rows["QLoRA r=16"]["base_bits"] == 4 and rows["full"]["base_bits"] == 8
    (axes,) = bars(rows).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(rows)
    drawn = [bar for bar in axes.containers if isinstance(bar, BarContainer)]
    for i, row in enumerate(rows.values()):
        lengths = [bar.patches[0].get_width() for bar in drawn[4 * i : 4 * i + 4]]
        assert sum(lengths) == pytest.approx(row["total"] / 1e6)
    assert axes.get_xlabel().startswith("MB held in a training step on ")
    assert axes.get_xlabel().endswith(" parameters, fp32, batch 1 × 8 tokens")
    totals = {name: human(row["total"]) for name, row in rows.items()}
    said = f"full holds {totals['full']}, QLoRA r=16 holds {totals['QLoRA r=16']}: "
    assert axes.get_title(loc="left").startswith(said)
    one = {"lora": {"total": 1500, "trainable_parameters": 1}}
    assert message(one) == "lora holds 1.50 kB"
    assert message(one | {"frozen": one["lora"] | {"trainable_parameters": 0}}) == message(one)
