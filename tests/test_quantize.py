"""A base in few bits: the levels, the packing, the memory, and methods on top of it."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.io.arrays import write_arrays
from minipeft.lab.saved_tensors import tape_arrays
from minipeft.model.quantize import LEVELS, QuantizedParameter, relative_error
from strategies import batch, model
from test_methods_adapters import shake

# wide enough for the defaults of every method; ffn is unlike any other size
CONFIG = mp.Config.gpt2(vocab=11, context=32, width=32, layers=2, heads=4, kv_heads=2, ffn=23)
PUBLISHED = [  # the table in Dettmers et al. 2023, appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
every_kind = pytest.mark.parametrize("kind", LEVELS)
floats = arrays(np.float64, array_shapes(max_dims=2, max_side=20), elements=st.floats(-3, 3))


def quantized(kind="nf4", seed=0, **options):
    """A quantised model, and ids and labels."""
    base = model(CONFIG, seed)
    mp.quantize(base, kind, **options)
    return base, *batch(CONFIG)


def test_the_levels_of_nf4_are_the_published_ones():
    assert np.abs(np.array(LEVELS["nf4"]) - PUBLISHED).max() < 1e-6


@every_kind
def test_levels_rise_from_minus_1_to_1_with_zero_among_them(kind):
    levels = np.array(LEVELS[kind])
    assert (np.diff(levels) > 0).all() and levels[0] == -1 and levels[-1] == 1
    assert 0.0 in levels and len(levels) == {"int8": 255, "int4": 15, "nf4": 16}[kind]


@given(floats, st.sampled_from(list(LEVELS)), st.sampled_from([2, 6, 64]))
def test_every_number_becomes_the_nearest_level(values, kind, block):
    packed = QuantizedParameter(xp.asarray(values), kind, block, double=False)
    padded = np.pad(values.reshape(-1), (0, -values.size % block)).reshape(-1, block)
    scale = np.abs(padded).max(axis=1, keepdims=True).astype("float32").astype("float64")
    off = np.abs(padded[..., None] - np.array(LEVELS[kind]) * scale[..., None])
    least = off.min(axis=-1).reshape(-1)[: values.size].reshape(values.shape)
    assert np.allclose(np.abs(to_numpy(packed.data) - values), least, rtol=0, atol=1e-14)
    again = QuantizedParameter(packed.data, kind, block, double=False)
    assert (again.data == packed.data).all() and (again.codes == packed.codes).all()


@given(floats, st.sampled_from(list(LEVELS)), st.booleans())
def test_four_bits_are_four_bits(values, kind, double):
    packed = QuantizedParameter(xp.asarray(values), kind, double=double)
    size, blocks = values.size, -(-values.size // 64)
    assert packed.codes.dtype == np.uint8 and packed.size == size
    assert packed.codes.nbytes == (size if kind == "int8" else -(-size // 2))
    scales = blocks + 4 * -(-blocks // 256) + 4 if double else 4 * blocks  # and their mean
    assert packed.nbytes == packed.codes.nbytes + scales
    assert (packed.shape, packed.dtype, packed.ndim) == (
        values.shape,
        values.dtype,
        values.ndim,
    )


@pytest.mark.parametrize("double, bits", [(False, 4.5), (True, 4.127)])
def test_bits_a_number(double, bits):
    values = xp.asarray(np.random.default_rng(0).standard_normal((512, 1024)), "float32")
    assert (
        abs(8 * QuantizedParameter(values, "nf4", double=double).nbytes / values.size - bits)
        < 1e-3
    )


def test_nf4_suits_normal_weights_better_than_int4():
    values = xp.asarray(np.random.default_rng(0).standard_normal((64, 640)))
    off = {
        kind: relative_error(QuantizedParameter(values, kind).data, values) for kind in LEVELS
    }
    assert off["int8"] < 0.01 < off["nf4"] < 0.95 * off["int4"] < 0.12


@given(st.integers(0, 999))
def test_double_quantisation_moves_a_scale_by_half_a_step(seed):
    values = xp.asarray(np.random.default_rng(seed).standard_normal((40, 64)))
    once, twice = QuantizedParameter(values, double=False), QuantizedParameter(values)
    off = xp.abs(twice.scales.data + twice.mean - once.scales)
    assert off.max() <= xp.abs(once.scales - twice.mean).max() / 254 * 1.001
    assert (once.codes == twice.codes).all()


@every_kind
def test_a_packed_model_is_its_dense_self(kind):
    """Logits and gradients are those of the model that holds the rounded weights plainly."""
    packed, ids, labels = quantized(kind)
    dense = copy.deepcopy(packed)
    mp.dequantize(dense)
    assert mp.fingerprint(dense) == mp.fingerprint(packed)
    grads = []
    for base in (packed, dense):
        adapter = mp.attach(base, mp.LoRA(2, target_modules="all-linear"))
        shake(adapter)
        loss = base.loss(ids, labels)
        loss.backward()
        grads.append([loss.data, *(p.grad for p in adapter.parameters())])
    assert all((a == b).all() for a, b in zip(*grads, strict=True))


def test_no_dense_copy_waits_on_the_tape():
    sizes = {(23, 32), (32, 23), (32, 32), (16, 32)}
    counted = []
    for kind in (None, "nf4"):
        base, (ids, labels) = model(CONFIG), batch(CONFIG)
        if kind:
            mp.quantize(base, kind)
        mp.attach(base, mp.LoRA(2, target_modules=("q_proj",)))
        held = tape_arrays(base.loss(ids, labels))
        counted.append(sum(a.shape in sizes and a.dtype == np.float64 for a in held))
    assert counted[0] > 4 and counted[1] == 0


def test_what_quantize_tells():
    base = model(CONFIG)
    weights = {path: p.data for path, p in base.named_parameters()}
    told = mp.quantize(base, "nf4")
    linears = {p.removesuffix(".weight"): w for p, w in weights.items() if "_proj.weight" in p}
    assert told.errors.keys() == linears.keys() == {p for p in CONFIG.linear_shapes}
    for path, p in base.named_parameters():
        if isinstance(p, QuantizedParameter):
            error = relative_error(p.data, weights[path])
            assert told.errors[path.removesuffix(".weight")] == error and 0.02 < error < 0.2
        else:
            assert p.data is weights[path]
    assert told.parameters == sum(w.size for w in linears.values())
    assert told.bytes_before == 8 * told.parameters
    packed = [p for p in base.parameters() if isinstance(p, QuantizedParameter)]
    assert told.bytes_after == sum(p.nbytes for p in packed)
    assert f"{8 * told.bytes_after / told.parameters:.3f} bits" in repr(told)


def test_the_head_stays_as_it_is():
    base = model(CONFIG.with_(tied=False))
    assert "lm_head" not in mp.quantize(base).errors
    assert "lm_head" in mp.quantize(model(CONFIG.with_(tied=False)), skip=()).errors


@pytest.mark.parametrize("method", mp.METHODS)
def test_every_method_on_top(method, tmp_path):
    """Attached, trained, saved and loaded; the base stays packed and keeps every bit."""
    base, ids, labels = quantized()
    mark, bare = mp.fingerprint(base), to_numpy(base(ids).data)
    packed = {
        path: p for path, p in base.named_parameters() if isinstance(p, QuantizedParameter)
    }
    adapter = mp.attach(base, mp.METHODS[method](), name="a")
    assert adapter.count == adapter.method.count(CONFIG)
    data = mp.Examples(ids, labels)
    history = mp.fit(base, data, steps=10, batch_size=3, lr=0.01, warmup=1)
    assert history.loss[-1] < history.loss[0]
    trained = to_numpy(base(ids).data)
    mp.save_adapter(base, "a", tmp_path)
    fresh, *_ = quantized()
    mp.load_adapter(fresh, tmp_path)
    assert (to_numpy(fresh(ids).data) == trained).all()
    mp.use(base, None)
    assert mp.fingerprint(base) == mark and (to_numpy(base(ids).data) == bare).all()
    assert all(dict(base.named_parameters())[path] is p for path, p in packed.items())
    with pytest.raises(ValueError, match="was trained on another base"):
        mp.load_adapter(model(CONFIG), tmp_path)  # the base before it was quantised


@every_kind
def test_merging_unpacks(kind):
    base, ids, _ = quantized(kind)
    shake(mp.attach(base, mp.LoRA(2)))
    wanted, before = to_numpy(base(ids).data), dict(mp.peft.base.base_parameters(base))
    receipt = mp.merge(base)
    assert np.allclose(to_numpy(base(ids).data), wanted, rtol=0, atol=1e-12)
    assert "4 unpacked" in repr(receipt) and not receipt.lost
    mp.unmerge(receipt)
    assert (to_numpy(base(ids).data) == wanted).all()
    assert all(before[path] is p for path, p in mp.peft.base.base_parameters(base))


@every_kind
def test_merging_and_packing_again_tells_what_is_lost(kind):
    base, ids, _ = quantized(kind)
    adapter = mp.attach(base, mp.LoRA(2))
    for p in adapter.parameters():
        p.data += xp.asarray(0.02 * np.random.default_rng(0).standard_normal(p.shape))
    wanted = to_numpy(base(ids).data)
    receipt = mp.merge(base, requantize=True)
    for path, share in receipt.lost.items():
        before, after = receipt.before[path], receipt.after[path]
        assert (
            isinstance(after, QuantizedParameter) and after.quantization == before.quantization
        )
        delta = adapter.deltas[path.removesuffix(".weight")]
        change = delta.scaling * delta.lora_B.data @ delta.lora_A.data
        off = relative_error(after.data - before.data, change)
        assert abs(share - off) < 1e-12 and (share > 0.3 or kind == "int8")
    assert len(receipt.lost) == 4
    assert f"{100 * np.mean(list(receipt.lost.values())):.1f} %" in repr(receipt)
    mp.unmerge(receipt)
    assert (to_numpy(base(ids).data) == wanted).all()


@every_kind
def test_a_packed_model_is_saved_packed(kind, tmp_path):
    base, ids, _ = quantized(kind)
    mp.save_model(base, tmp_path)
    loaded = mp.load_model(tmp_path)
    assert mp.fingerprint(loaded) == mp.fingerprint(base)
    assert (to_numpy(loaded(ids).data) == to_numpy(base(ids).data)).all()
    for ours, theirs in zip(base.parameters(), loaded.parameters(), strict=True):
        assert type(ours) is type(theirs) and not theirs.requires_grad
    mp.save_model(model(CONFIG), tmp_path / "dense")
    small, large = (
        (folder / "model.safetensors").stat().st_size
        for folder in (tmp_path, tmp_path / "dense")
    )
    assert small < 0.75 * large


@pytest.mark.parametrize(
    "packed",
    [
        {"blocks.9.attn.q_proj.weight": {"kind": "nf4", "block": 64, "double": True}},
        {"blocks.0.attn.q_proj.weight": {"kind": "nf5", "block": 64, "double": True}},
        {"blocks.0.attn.q_proj.weight": {"kind": "nf4", "block": 63, "double": True}},
        {"blocks.0.attn.q_proj.weight": {"kind": "nf4", "block": 128, "double": True}},
        {"blocks.0.attn.q_proj.weight": "nf4"},
        {"wte.weight": {"kind": "nf4", "block": 64, "double": True}},
        ["nf4"],
        7,
    ],
    ids=str,
)
def test_a_file_that_lies_about_its_packing_is_refused(packed, tmp_path):
    base, *_ = quantized()
    mp.save_model(base, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"packed": packed}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arrays = {
        f"{path}{end}": a for path, p in base.named_parameters() for end, a in p.arrays.items()
    }
    write_arrays(tmp_path / "model.safetensors", arrays, {"config": json.dumps(config)})
    with pytest.raises(ValueError):
        mp.load_model(tmp_path)


@every_kind
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("alpha", [2.0, 16.0])
def test_loftq_is_nearer_to_the_weights(kind, steps, alpha):
    plain, *_ = quantized(kind)
    base, (ids, _) = model(CONFIG), batch(CONFIG)
    weights = {path: p.data for path, p in base.named_parameters()}
    method = mp.LoRA(2, alpha, target_modules=("q_proj", "up_proj"))
    adapter = mp.loftq(base, method, kind, steps=steps)
    parameters = dict(mp.peft.base.base_parameters(base))
    for path, p in mp.peft.base.base_parameters(plain):
        delta = adapter.deltas.get(path.removesuffix(".weight"))
        if delta is None:
            assert (parameters[path].data == p.data).all()
            continue
        low = delta.scaling * delta.lora_B.data @ delta.lora_A.data
        left = np.linalg.norm(to_numpy(weights[path] - parameters[path].data - low))
        s = np.linalg.svd(to_numpy(weights[path] - p.data), compute_uv=False)
        least = np.linalg.norm(s[2:])  # what a rank of 2 leaves of the plain rounding
        assert abs(left - least) < 1e-12 if steps == 1 else left <= least + 1e-12
    attached = to_numpy(base(ids).data)
    mp.merge(base)
    assert np.allclose(to_numpy(base(ids).data), attached, rtol=0, atol=1e-12)


def test_loftq_files_fit_together(tmp_path):
    base, (ids, _) = model(CONFIG), batch(CONFIG)
    mp.loftq(base, mp.LoRA(2), name="l")
    mp.save_model(base, tmp_path / "base")
    mp.save_adapter(base, "l", tmp_path / "l")
    fresh = mp.load_model(tmp_path / "base")
    mp.load_adapter(fresh, tmp_path / "l")
    assert (to_numpy(fresh(ids).data) == to_numpy(base(ids).data)).all()


def test_what_a_packed_weight_refuses():
    base, ids, labels = quantized()
    weight = base.blocks[0].attn.q_proj.weight
    with pytest.raises(ValueError, match="read-only"):
        weight.data = np.zeros((16, 16))
    with pytest.raises(ValueError, match="cannot train"):
        weight.requires_grad = True
    with pytest.raises(ValueError, match="already quantised"):
        mp.quantize(base)
    with pytest.raises(ValueError, match="already quantised"):
        mp.loftq(base)
    with pytest.raises(ValueError, match="nothing trains"):
        mp.fit(base, mp.Examples(ids, labels), steps=1)


@pytest.mark.parametrize("wrong", [dict(kind="nf3"), dict(block=7), dict(block=0)])
def test_wrong_options_change_nothing(wrong):
    base, (ids, _) = model(CONFIG), batch(CONFIG)
    before = to_numpy(base(ids).data)
    with pytest.raises(ValueError):
        mp.quantize(base, **wrong)
    with pytest.raises(ValueError):
        mp.loftq(base, **wrong)
    base.blocks[1].mlp.up_proj.weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        mp.quantize(base)
    base.blocks[1].mlp.up_proj.weight.data[0, 0] = 0.0
    assert not mp.adapters(base) and all(p.requires_grad for p in base.parameters())
    assert to_numpy(base(ids).data).shape == before.shape
    assert not any(isinstance(p, QuantizedParameter) for p in base.parameters())


@pytest.mark.parametrize("change", [mp.quantize, mp.dequantize, mp.loftq])
def test_the_base_below_an_adapter_is_not_changed(change):
    base, (ids, _) = model(CONFIG), batch(CONFIG)
    mp.attach(base, mp.LoRA(2), "mine")
    mp.use(base, None)
    before = to_numpy(base(ids).data)
    with pytest.raises(ValueError, match="'mine'"):
        change(base)
    assert (to_numpy(base(ids).data) == before).all()


def test_loftq_is_for_plain_lora():
    base = model(CONFIG)
    with pytest.raises(ValueError, match="plain LoRA"):
        mp.loftq(base, mp.Prefix(2))
    with pytest.raises(ValueError, match="steps"):
        mp.loftq(base, steps=0)
    assert not mp.adapters(base)
