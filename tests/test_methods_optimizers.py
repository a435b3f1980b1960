"""Methods that change the optimiser or its gradients: GaLore and LoRA-FA."""

import pytest

import minipeft as mp
from laws.case import close
from minipeft.engine.backend import BACKEND, np, to_numpy
from minipeft.train.batch_gradient import batch_gradient
from minipeft.train.fit import Run, Settings
from minipeft.train.optimizers import make_optimizers
from spec import proves
from strategies import batch, model
from test_train import SMALL, examples, weights

CONFIG = mp.Config.llama(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=6)


def test_galore_is_its_algorithm(lr=0.01, decay=0.3):
    """Nine updates in plain NumPy, of which the first, the fifth and the ninth find P anew."""
    net, data = model(CONFIG), examples(vocab=11)
    adapter = mp.attach(net, mp.GaLore(r=2, update_proj_gap=4, scale=0.7))
    optimizers = make_optimizers(net, weight_decay=decay)
    w = {path: to_numpy(p.data).copy() for path, p in adapter.copies.items()}
    moments, basis = dict.fromkeys(w, (0.0, 0.0)), {}
    for step in range(9):
        net.zero_grad()
        batch_gradient(net, *data.batch(step, 4, 0))
        for path, p in adapter.copies.items():
            low = path.startswith("blocks.") and p.ndim == 2
            tall = low and p.shape[0] > p.shape[1]
            g = to_numpy(p.grad.T if tall else p.grad)
            if low and step % 4 == 0:
                old, new = basis.get(path, np.zeros((len(g), 2))), np.linalg.svd(g)[0][:, :2]
                basis[path] = np.where(np.diag(old.T @ new) < 0, -new, new)
            g = basis[path].T @ g if low else g
            m, v = moments[path]
            m, v = moments[path] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            n = m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.999 ** (step + 1))) ** 0.5 + 1e-8)
            n = 0.7 * basis[path] @ n if low else n
            w[path] -= lr * ((n.T if tall else n) + decay * w[path] * (p.ndim > 1))
        for optimizer in optimizers:
            optimizer.step(lr)
    for path, p in adapter.copies.items():
        close(to_numpy(p.data), w[path], 1e-9, path)


@proves("galore", "full")
def test_galore_above_every_rank_is_full_fine_tuning():
    found = []
    for method in (mp.GaLore(r=8), mp.Full()):
        net = model(CONFIG)
        mp.attach(net, method)
        mp.fit(net, examples(vocab=11), steps=5, batch_size=4)
        found.append(weights(net))
    assert (found[0] == found[1]).all()


on_numpy = pytest.mark.skipif(BACKEND != "numpy", reason="the ledger counts NumPy's arrays")


@on_numpy
@pytest.mark.parametrize("r", [1, 3])
def test_the_optimiser_of_galore_is_small(r):
    """r m + 2 r n numbers a matrix, as in table 1 of the paper; 2 m n where it is AdamW's."""
    net = model(CONFIG)
    adapter = mp.attach(net, mp.GaLore(r=r))
    wanted = 0
    for path, p in adapter.copies.items():
        m, n = min(p.shape), max(p.shape)
        low = path.startswith("blocks.") and p.ndim == 2 and m > r
        wanted += r * m + 2 * r * n if low else 2 * p.data.size
    optimizers = make_optimizers(net)
    held = sum(a.size for o in optimizers for kind in o.state.values() for a in kind)
    told = mp.ledger(CONFIG, mp.GaLore(r=r)).optimiser_of["moments"]
    assert held == wanted == told // 4
    assert told < mp.ledger(CONFIG, mp.Full()).optimiser_of["moments"]


def test_each_step_of_galore_has_rank_r_and_their_sum_more():
    net = model(CONFIG)
    adapter = mp.attach(net, mp.GaLore(r=1, update_proj_gap=1))
    p = adapter.copies["blocks.0.attn.q_proj.weight"]
    run = Run(net, examples(vocab=11), Settings(9, 4, 0.01, weight_decay=0.0))
    start, ranks = to_numpy(p.data).copy(), []
    for _ in range(3):
        before = to_numpy(p.data).copy()
        run.step()
        ranks.append(np.linalg.matrix_rank(to_numpy(p.data) - before, tol=1e-10))
    assert ranks == [1, 1, 1]
    assert np.linalg.matrix_rank(to_numpy(p.data) - start, tol=1e-10) == 3


def test_a_corrected_step_of_lora_fa_is_the_nearest_to_that_of_full_fine_tuning():
    """s H A is the gradient G of W, projected on the rows of A."""
    net, twin, (ids, labels) = model(CONFIG), model(CONFIG), batch(CONFIG)
    adapter = mp.attach(net, mp.LoRAFA(r=3, lora_alpha=5.0))
    batch_gradient(net, ids, labels)
    adapter.method.before_step(adapter, 1, 1)
    twin.loss(ids, labels).backward()
    full = {path: to_numpy(p.grad) for path, p in twin.named_parameters()}
    for path, delta in adapter.deltas.items():
        a, g = to_numpy(delta.lora_A), full[f"{path}.weight"]
        nearest = g @ np.linalg.pinv(a) @ a
        close(5.0 / 3 * to_numpy(delta.lora_B.grad) @ a, nearest, 1e-7, path)


@proves("lora", "lora-fa")
def test_lora_fa_uncorrected_is_a_lora_of_which_only_b_moves():
    found = []
    for method in (mp.LoRAFA(2, corrected=False), mp.LoRA(2)):
        net = mp.Transformer(SMALL, 0)
        adapter = mp.attach(net, method, rng=3)
        if type(method) is mp.LoRA:
            for delta in adapter.deltas.values():
                delta.lora_A.rate = 0.0
        mp.fit(net, examples(), steps=4, batch_size=4, clip=None)
        found.append([to_numpy(delta.change()) for delta in adapter.deltas.values()])
    assert all((a == b).all() for a, b in zip(*found, strict=True))


@on_numpy
def test_lora_fa_keeps_r_numbers_a_token_where_lora_keeps_its_input():
    wide = mp.Config.llama(vocab=11, context=16, width=64, layers=1, heads=4, ffn=64)
    lora, fa = (
        mp.ledger(wide, kind(2, target_modules="down_proj"), batch=1, seq=16)
        for kind in (mp.LoRA, mp.LoRAFA)
    )
    assert lora.tape - fa.tape == 4 * 16 * 64
    assert fa.weights == lora.weights and 2 * fa.optimiser == lora.optimiser
