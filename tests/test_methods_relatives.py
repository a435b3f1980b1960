"""What LoRA's relatives, and methods of shared matrices, are in special cases: each other.

Every test gives two methods numbers for which they must compute the same, and compares logits
or gradients; or it states what a paper proves of its method.
"""

import pytest

import minipeft as mp
from laws.case import Case, close, logits, shake
from minipeft.engine import functional as F
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.peft.targets import weight
from spec import proves
from strategies import batch, model

SIZES = dict(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=6, init_std=0.3)
LLAMA = mp.Config.llama(**SIZES)
GPT2 = mp.Config.gpt2(**SIZES)
NAMES = ("q_proj", "v_proj", "down_proj")
IDS, LABELS = batch(LLAMA, 3, 5)
both = pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])


def attached(method, config=LLAMA, ones=False, seed=0):
    """(model, {path: (site, Delta)}), all that trains random; with `ones` weights are ones."""
    net = model(config)
    if ones:
        for path, p in net.named_parameters():
            if path.endswith("_proj.weight"):
                p.data[...] = 1.0
    adapter = shake(mp.attach(net, method), seed)
    modules = dict(net.named_modules())
    return net, {path: (modules[path], delta) for path, delta in adapter.deltas.items()}


def lora(factors, config=LLAMA, ones=False):
    """A model with a LoRA of these {path: (B, A)}, not scaled."""
    r = max(len(a) for _, a in factors.values())
    net, deltas = attached(mp.LoRA(r, r, target_modules=tuple(factors)), config, ones)
    for path, (b, a) in factors.items():
        _, delta = deltas[path]
        delta.lora_B.data, delta.lora_A.data = xp.asarray(b), xp.asarray(a)
    return net


def same_logits(one, other):
    close(logits(one, IDS), logits(other, IDS), 1e-11, "logits")


def gradients(net):
    """{path: gradient} of what trains."""
    F.cross_entropy(net(IDS), LABELS).backward()
    return {path: to_numpy(p.grad) for path, p in net.named_parameters() if p.requires_grad}


# --- MiSS, HiRA, SHiRA, DeLoRA


@proves("lora", "miss")
@both
@pytest.mark.parametrize("r", [1, 3, 4])
def test_miss_is_lora_whose_a_is_unit_matrices_side_by_side(config, r):
    net, deltas = attached(mp.MiSS(r, NAMES), config)
    factors = {}
    for path, (site, delta) in deltas.items():
        n_in = weight(site).shape[1]
        factors[path] = to_numpy(delta.miss_block.data).T, np.eye(r)[:, np.arange(n_in) % r]
    same_logits(net, lora(factors, config))


@both
def test_hira_on_a_weight_of_ones_is_lora(config):
    net, deltas = attached(mp.HiRA(2, NAMES), config, ones=True)
    factors = {path: (d.hira_B.data, d.hira_A.data) for path, (_, d) in deltas.items()}
    same_logits(net, lora(factors, config, ones=True))


@proves("hira", "ia3")
def test_hira_of_rank_1_whose_a_is_ones_is_ia3_without_a_bias():
    net, deltas = attached(mp.HiRA(1, ("k_proj", "v_proj")))
    stretched, of_ia3 = attached(mp.IA3(("k_proj", "v_proj"), ()))
    for path, (_, delta) in deltas.items():
        delta.hira_A.data[...] = 1.0
        of_ia3[path][1].ia3_l.data = 1.0 + delta.hira_B.data[:, 0]
    same_logits(net, stretched)


def test_hira_can_have_a_rank_of_that_of_w_times_its_own():
    _, deltas = attached(mp.HiRA(1, ("q_proj",)))
    for _, delta in deltas.values():
        assert np.linalg.matrix_rank(to_numpy(delta.change().data)) == 8


@proves("shira", "full")
@both
def test_shira_with_all_places_is_full_fine_tuning_of_the_matrix(config):
    net, deltas = attached(mp.SHiRA(4, ("q_proj",)), config)  # 4 (8 + 8) = 8 · 8 places
    whole = model(config)
    mp.attach(whole, mp.Full())
    parameters = dict(whole.named_parameters())
    for path, (site, delta) in deltas.items():
        changed = weight(site).data + delta.shira_weight.data.reshape(8, 8)
        parameters[f"{path}.weight"].data = changed
    same_logits(net, whole)
    ours, theirs = gradients(net), gradients(whole)
    assert len(ours) == len(deltas)
    for path in deltas:
        (found,) = [g for name, g in ours.items() if name.startswith(path)]
        close(found.reshape(8, 8), theirs[f"{path}.weight"], 1e-12, "gradient")


@proves("lora", "delora")
def test_delora_of_rank_1_is_lora_whose_strength_is_a_number():
    net, deltas = attached(mp.DeLoRA(1, target_modules=NAMES, start_seed=None))
    factors = {}
    for path, (_, delta) in deltas.items():
        a, b, lam = (to_numpy(p.data) for p in delta.factors())
        strength = lam / np.linalg.norm(a) / np.linalg.norm(b)
        factors[path] = strength * b, a * to_numpy(delta.w)
    same_logits(net, lora(factors))


@pytest.mark.parametrize("r", [1, 3])
def test_the_change_of_delora_is_never_longer_than_lambda(r):
    method = mp.DeLoRA(r, target_modules=NAMES, start_seed=None)
    _, deltas = attached(method)
    for site, delta in deltas.values():
        for size in (1e-9, 1e-2, 1e4):
            delta.delora_B.data *= size
            change = delta.merged(site)["weight"] - weight(site).data
            length = np.linalg.norm(to_numpy(change / delta.w))
            lam = float(delta.delora_lambda.data[0])
            assert length <= abs(lam) * (1 + 1e-12)
            delta.delora_B.data /= size


def test_delora_adds_nothing_at_its_start_and_is_full_of_directions():
    net = model(LLAMA)
    before = logits(net, IDS)
    adapter = mp.attach(net, mp.DeLoRA(2))
    assert (logits(net, IDS) == before).all()
    assert all(delta.delora_B.data.any() for delta in adapter.deltas.values())


# --- VB-LoRA, Uni-LoRA, RandLoRA, TinyLoRA, PVeRA


@proves("lora", "vb-lora")
@both
def test_vblora_of_one_vector_a_piece_is_lora_of_tied_numbers(config):
    net, deltas = attached(mp.VBLoRA(2, 5, 2, 1, NAMES), config)
    factors = {}
    for path, (_, delta) in deltas.items():
        bank = to_numpy(delta.vblora_vector_bank.data)
        best = [
            to_numpy(s.data).argmax(-1) for s in (delta.vblora_logits_A, delta.vblora_logits_B)
        ]
        a = bank[best[0]].reshape(2, -1)
        b = np.concatenate([bank[row].T for row in best[1]])  # (b, r) for each piece of outputs
        factors[path] = b, a
    same_logits(net, lora(factors, config))


@proves("unilora", "lora")
@both
def test_unilora_of_as_many_entries_as_lora_has_numbers_is_lora(config):
    count = mp.LoRA(2, target_modules=NAMES).count(config)
    net, deltas = attached(mp.UniLoRA(2, count, NAMES), config)
    factors, used = {}, []
    for path, (_, delta) in deltas.items():
        theta = to_numpy(delta.unilora_theta_d.data)
        places = to_numpy(delta.taken_a), to_numpy(delta.taken_b)
        assert (delta.scale_a == 1).all() and (delta.scale_b == 1).all()
        used += [*places[0].ravel(), *places[1].ravel()]
        factors[path] = theta[places[1]], theta[places[0]]
    assert sorted(used) == list(range(count))  # each entry once
    same_logits(net, lora(factors, config))


@pytest.mark.parametrize("d", [1, 7, 50])
def test_unilora_keeps_lengths(d):
    _, deltas = attached(mp.UniLoRA(2, d, NAMES))
    parts = [factor.data for _, delta in deltas.values() for factor in delta.factors()]
    theta = next(iter(deltas.values()))[1].unilora_theta_d.data
    length = sum(float((part * part).sum()) for part in parts)
    assert abs(length - float((theta * theta).sum())) < 1e-6 * length  # scales are float32


def test_randlora_has_full_rank():
    _, deltas = attached(mp.RandLoRA(1, target_modules=("q_proj", "v_proj", "down_proj")))
    for site, delta in deltas.values():
        change = to_numpy(delta.merged(site)["weight"] - weight(site).data)
        assert np.linalg.matrix_rank(change) == min(change.shape)


@proves("randlora", "vera")
def test_randlora_of_one_term_is_vera_where_out_is_less_than_in():
    net, deltas = attached(mp.RandLoRA(9, 9.0, ("v_proj",)))
    vera, of_vera = attached(mp.VeRA(9, ("v_proj",)))
    for path, (_, delta) in deltas.items():
        other = of_vera[path][1]
        other.a, other.b = delta.b[:, 0].T, delta.a[:, 0].T
        other.vera_lambda_d.data = delta.randlora_lambda.data[:, 0]
        other.vera_lambda_b.data = delta.randlora_gamma.data[0]
    same_logits(net, vera)


@proves("lora", "tinylora")
def test_tinylora_of_all_r_squared_directions_is_any_matrix_between_the_singular_vectors():
    net, deltas = attached(mp.TinyLoRA(2, 4, target_modules=NAMES))
    factors = {}
    for path, (_, delta) in deltas.items():
        delta.p = xp.asarray(np.eye(4).reshape(4, 2, 2))
        middle = delta.middle().data.copy()
        assert (middle.ravel() == getattr(delta, delta.name).data).all()
        factors[path] = delta.b @ middle, delta.a
    same_logits(net, lora(factors))


@both
def test_tinylora_does_not_depend_on_the_signs_that_an_svd_gives(config, monkeypatch):
    plain, _ = attached(mp.TinyLoRA(2, 4), config)
    svd = xp.linalg.svd

    def other(w, full_matrices):
        u, s, vt = svd(w, full_matrices=full_matrices)
        return -u, s, -vt

    monkeypatch.setattr(xp.linalg, "svd", other)
    flipped, _ = attached(mp.TinyLoRA(2, 4), config)
    assert (logits(plain, IDS) == logits(flipped, IDS)).all()


def test_balanced_tinylora_has_as_large_factors_on_both_sides():
    _, deltas = attached(mp.TinyLoRA(2, 4, balanced=True))
    for _, delta in deltas.values():
        left, right = (to_numpy(part) for part in (delta.b, delta.a))
        close(left.T @ left, right @ right.T, 1e-10, "products")


@proves("pvera", "vera")
def test_pvera_at_evaluation_is_vera_of_its_mean():
    net, deltas = attached(mp.PVeRA(3, NAMES))
    vera, of_vera = attached(mp.VeRA(3, NAMES))
    for path, (_, delta) in deltas.items():
        other = of_vera[path][1]
        other.a, other.b = delta.a[:3], delta.b
        other.vera_lambda_d.data = delta.pvera_lambda_d.data[:3]
        other.vera_lambda_b.data = delta.pvera_lambda_b.data
    same_logits(net, vera)


def test_in_training_pvera_adds_noise_of_the_learnt_size():
    net, deltas = attached(mp.PVeRA(3, ("q_proj",)))
    site, delta = deltas["blocks.0.attn.q_proj"]
    x = np.random.default_rng(1).standard_normal((1, 2, 8))
    still, runs = to_numpy(site(xp.asarray(x)).data), []
    for seed in range(4000):
        with net.training(np.random.default_rng(seed)):
            runs.append(to_numpy(site(xp.asarray(x)).data))
    d, rows = to_numpy(delta.pvera_lambda_d.data), to_numpy(delta.a)
    variance = np.exp(x @ rows[3:].T * d[3:])  # (1, 2, r)
    out = to_numpy(delta.pvera_lambda_b.data)[:, None] * to_numpy(delta.b)  # (out, r)
    close(np.var(runs, axis=0), variance @ (out * out).T, 0.15, "variance")
    spread = np.sqrt(variance @ (out * out).T / len(runs))
    assert (np.abs(np.mean(runs, axis=0) - still) <= 5 * spread).all()


def test_all_have_the_seeds_of_their_files():
    """Another seed gives another change, the same one the same, on any model of that shape."""
    for kind, name in ((mp.SHiRA, "random_seed"), (mp.UniLoRA, "proj_seed")):
        seeds = [
            next(iter(attached(kind(**{name: seed}, r=2))[1].values()))[1] for seed in (3, 3, 4)
        ]
        part = "places" if kind is mp.SHiRA else "taken_a"
        one, same, other = (to_numpy(getattr(delta, part)) for delta in seeds)
        assert (one == same).all() and (one != other).any()


def test_a_case_of_every_relative_trains():
    """Twenty steps lower the loss on one batch."""
    for method in (mp.MiSS(2), mp.HiRA(2), mp.DeLoRA(2), mp.SHiRA(2), mp.VBLoRA(2, 5, 2)):
        net = Case(LLAMA, method).base()
        mp.attach(net, method)
        history = mp.fit(net, mp.Examples(IDS, LABELS), 20, 3, method.learning_rate)
        assert history.loss[-1] < history.loss[0]
