"""What is special to AdaLoRA: its budget, its scores, its penalty, and ranks that shrink."""

import json

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.train.batch_gradient import batch_gradient
from strategies import batch, model
from test_methods_adapters import shake

SIZES = dict(vocab=11, context=16, width=8, layers=2, heads=4, ffn=6, init_std=0.3)
CONFIG = mp.Config.gpt2(**SIZES)
IDS, LABELS = batch(CONFIG, 6, 5)
DATA = mp.Examples(IDS, LABELS)


def fitted(method, steps=12, **options):
    """(model, adapter, History) after a run."""
    base = model(CONFIG)
    adapter = mp.attach(base, method)
    history = mp.fit(base, DATA, steps, 4, lr=0.02, warmup=2, **options)
    return base, adapter, history


@given(st.data())
def test_the_budget_falls_by_a_cubic(data):
    target = data.draw(st.integers(1, 6))
    first = data.draw(st.integers(target, 9))
    start, end, n = (data.draw(st.integers(0, 5)) for _ in range(3))
    steps = start + end + data.draw(st.integers(1, 30))
    method = mp.AdaLoRA(first, target, tinit=start, tfinal=end)
    budgets = [method.budget(step, steps, n + 1) for step in range(1, steps + 1)]
    assert budgets == sorted(budgets, reverse=True)
    assert all(b == (n + 1) * first for b in budgets[:start])
    assert all(b == (n + 1) * target for b in budgets[steps - end - 1 :])
    for step, budget in enumerate(budgets, 1):
        if start < step <= steps - end:
            left = 1 - (step - start) / (steps - start - end)
            wanted = (n + 1) * (target + (first - target) * left**3)
            assert -1e-9 <= wanted - budget < 1 + 1e-9


@pytest.mark.parametrize("start, end, every", [(0, 0, 1), (3, 4, 1), (2, 3, 2)])
def test_ranks_really_shrink(start, end, every):
    method = mp.AdaLoRA(
        6, 2, tinit=start, tfinal=end, deltaT=every, target_modules="all-linear"
    )
    base, adapter, history = fitted(method, 16)
    n = len(adapter.deltas)
    totals = [sum(ranks) for ranks in zip(*history.ranks.values(), strict=True)]
    assert len(totals) == 16 and list(history.ranks) == list(adapter.deltas)
    for step, total in enumerate(totals, 1):
        allocates = start < step < 16 - end and step % every == 0
        if allocates or step >= 16 - end:
            assert total == method.budget(step, 16, n)
        elif step <= start:
            assert total == 6 * n
        else:  # between two allocations every λ moves
            assert total > method.budget(step, 16, n)
    assert totals[-1] == 2 * n
    assert len({ranks[-1] for ranks in history.ranks.values()}) > 1  # they compete
    if end:  # what was chosen stays chosen
        assert all(len(set(ranks[-end - 1 :])) == 1 for ranks in history.ranks.values())
    receipt = mp.merge(base)
    for path, delta in adapter.deltas.items():
        weight = f"{path}.weight"
        change = to_numpy(receipt.after[weight].data - receipt.before[weight].data)
        size = max(np.abs(change).max(), 1e-3)
        rank = np.linalg.matrix_rank(change, tol=1e-9 * size)
        assert rank == delta.rank == history.ranks[path][-1]


def reference_scores(method, numbers):
    """Scores by Zhang et al.'s equations, from [{name: (w, g)}] of successive steps."""
    smooth, unsure = {}, {}
    for step in numbers:
        for name, (w, g) in step.items():
            now = np.abs(to_numpy(w) * to_numpy(g))
            smooth[name] = method.beta1 * smooth.get(name, 0) + (1 - method.beta1) * now
            off = np.abs(now - smooth[name])
            unsure[name] = method.beta2 * unsure.get(name, 0) + (1 - method.beta2) * off
    s = {name: smooth[name] * unsure[name] for name in smooth}
    return s["lora_E"] + s["lora_B"].mean(axis=0) + s["lora_A"].mean(axis=1)


def test_the_score_is_sensitivity_times_uncertainty():
    method = mp.AdaLoRA(4, 2, beta1=0.7, beta2=0.9, orth_reg_weight=0.0)
    base = model(CONFIG)
    adapter = mp.attach(base, method)
    shake(adapter)
    delta, seen = adapter.deltas["blocks.1.attn.v_proj"], []
    for step in range(4):
        base.zero_grad()
        batch_gradient(base, *batch(CONFIG, seed=step))
        seen.append({name: (p.data.copy(), p.grad) for name, p in delta.named_parameters()})
        got = delta.score(method.beta1, method.beta2, fresh=step == 0)
        assert np.allclose(to_numpy(got), reference_scores(method, seen), rtol=1e-12, atol=0)
        shake(adapter, step)


def test_the_best_scores_of_the_whole_model_keep_their_ranks():
    method = mp.AdaLoRA(4, 2, target_modules=("q_proj", "v_proj"), orth_reg_weight=0.0)
    base = model(CONFIG)
    adapter = mp.attach(base, method)
    shake(adapter)
    batch_gradient(base, IDS, LABELS)
    deltas = adapter.deltas.values()
    numbers = [{n: (p.data, p.grad) for n, p in d.named_parameters()} for d in deltas]
    scores = np.concatenate([reference_scores(method, [n]) for n in numbers])
    ranks = method.after_step(adapter, 1, 1)
    kept = np.concatenate([to_numpy(d.lora_E.data) != 0 for d in deltas])
    assert kept.sum() == sum(ranks.values()) == 2 * len(deltas)
    assert scores[kept].min() > scores[~kept].max()


def test_the_penalty_is_the_distance_from_orthogonal():
    base = model(CONFIG)
    adapter = mp.attach(base, mp.AdaLoRA(3, 2, orth_reg_weight=0.7))
    shake(adapter)
    base.zero_grad()
    adapter.method.before_step(adapter, 1, 9)
    one, n = np.eye(3), len(adapter.deltas)
    for delta in adapter.deltas.values():
        p, q = to_numpy(delta.lora_B.data), to_numpy(delta.lora_A.data)
        both = np.linalg.norm(p.T @ p - one) ** 2 + np.linalg.norm(q @ q.T - one) ** 2
        assert np.isclose(delta.skewness().item(), both, rtol=1e-12)
        assert np.allclose(
            to_numpy(delta.lora_B.grad), 0.7 / n * 4 * p @ (p.T @ p - one), atol=1e-12
        )
        assert np.allclose(
            to_numpy(delta.lora_A.grad), 0.7 / n * 4 * (q @ q.T - one) @ q, atol=1e-12
        )
        assert delta.lora_E.grad is None


def test_training_makes_the_triplets_orthogonal():
    method = mp.AdaLoRA(3, 3, orth_reg_weight=0.5)
    _, adapter, _ = fitted(method, 60)
    start = mp.attach(model(CONFIG), method)
    for path, delta in adapter.deltas.items():
        assert delta.skewness().item() < 0.2 * start.deltas[path].skewness().item()


def test_resuming_gives_the_same_ranks_and_bits(tmp_path):
    method = mp.AdaLoRA(6, 2, tinit=2, tfinal=3, target_modules="all-linear")
    base, _, whole = fitted(method)
    wanted = to_numpy(base(IDS).data)
    for until in (1, 5, 10):  # before, while, and after the ranks shrink
        path = tmp_path / f"{until}.safetensors"
        fitted(method, checkpoint=path, until=until)
        other, _, history = fitted(method, checkpoint=path)
        assert (to_numpy(other(IDS).data) == wanted).all()
        assert history.ranks == whole.ranks and len(history.loss) == 12


def test_a_second_run_starts_from_no_memory_of_the_first():
    base, adapter, _ = fitted(mp.AdaLoRA(4, 2))
    other = model(CONFIG)
    twin = mp.attach(other, mp.AdaLoRA(4, 2))
    for ours, theirs in zip(adapter.parameters(), twin.parameters(), strict=True):
        theirs.data = ours.data.copy()
    one, two = (mp.fit(net, DATA, 5, 4, lr=0.02, warmup=2) for net in (base, other))
    assert one.loss == two.loss and one.ranks == two.ranks
    for path, delta in adapter.deltas.items():
        for name, a in delta.state().items():
            assert (a == twin.deltas[path].state()[name]).all()


def test_a_run_without_room_to_shrink_is_refused_before_it_starts():
    base = model(CONFIG)
    adapter = mp.attach(base, mp.AdaLoRA(4, 2, tinit=5, tfinal=5))
    before = [p.data.copy() for p in adapter.parameters()]
    with pytest.raises(ValueError, match="none of 10 steps to shrink in"):
        mp.fit(base, DATA, 10, 4)
    after = [p.data for p in adapter.parameters()]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_two_at_once_note_their_ranks_apart():
    base = model(CONFIG)
    mp.attach(base, mp.AdaLoRA(4, 2), "one")
    mp.attach(base, mp.AdaLoRA(3, 1), "two", rng=1)
    mp.use(base, ["one", "two"])
    ranks = mp.fit(base, DATA, 6, 4, lr=0.02, warmup=1).ranks
    assert {name.split()[0] for name in ranks} == {"one", "two"}
    assert all(len(each) == 6 for each in ranks.values())
    ends = {
        name: sum(r[-1] for n, r in ranks.items() if n[:3] == name) for name in ("one", "two")
    }
    assert ends == {"one": 2 * 4, "two": 1 * 4}


def test_other_methods_note_no_ranks():
    assert fitted(mp.LoRA(2))[2].ranks == {}
    with pytest.raises(ValueError, match="AdaLoRA"):
        mp.History().plot_ranks()


def test_ranks_are_drawn():
    matplotlib.use("agg")
    _, adapter, history = fitted(mp.AdaLoRA(4, 2))
    axes = history.plot_ranks()
    image = axes.images[0].get_array()
    assert image.shape == (len(adapter.deltas), 12)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(adapter.deltas)
    assert axes.get_title() == "14 ranks at first, 8 in the end"
    matplotlib.pyplot.close(axes.figure)


def test_pruned_ranks_stay_so_in_a_file(tmp_path):
    base, adapter, _ = fitted(mp.AdaLoRA(4, 2))
    mp.save_adapter(base, "default", tmp_path)
    loaded = mp.load_adapter(model(CONFIG), tmp_path)
    ranks = {path: delta.rank for path, delta in adapter.deltas.items()}
    assert {path: delta.rank for path, delta in loaded.deltas.items()} == ranks
    assert sum(ranks.values()) == 2 * len(ranks)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_r"] == 4
