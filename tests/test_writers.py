"""Files with several writers and readers: locks, pairs of files, permissions and links."""

import json
import os
import pickle
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.io import hf_adapters
from minipeft.io.arrays import write_arrays
from minipeft.io.files import fcntl, locked, write_json
from minipeft.io.safetensors import Safetensors, write_safetensors
from strategies import batch, model

CONFIG = mp.Config.llama(vocab=7, context=8, width=4, layers=1, heads=2, kv_heads=1, ffn=3)
needs_locks = pytest.mark.skipif(fcntl is None, reason="no file locks here")


def tuned(**options):
    """A small model with a LoRA."""
    net = model(CONFIG, precision="float32")
    mp.attach(net, mp.LoRA(r=2, **options), "mine")
    return net


@needs_locks
def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path):
    path = tmp_path / "run"
    code = f"from minipeft.io.files import locked\nwith locked({str(path)!r}):\n input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    lock = path.with_name(".run.lock")
    while not lock.exists() or not lock.read_text():
        assert holder.poll() is None
    with pytest.raises(OSError, match=f"process {holder.pid} on .*; wait for it"), locked(path):
        pass
    holder.kill()
    holder.wait()
    with locked(path):
        assert str(os.getpid()) in lock.read_text()
    assert not lock.exists()


@needs_locks
def test_two_runs_do_not_share_a_checkpoint(tmp_path):
    data, path = mp.Examples(*batch(CONFIG, B=4, T=5)), tmp_path / "run.safetensors"
    with locked(path), pytest.raises(OSError, match="is being written by process"):
        mp.fit(tuned(), data, 2, 2, checkpoint=path)
    mp.fit(tuned(), data, 2, 2, checkpoint=path)


def test_writers_at_once_leave_whole_files(tmp_path):
    path, errors = tmp_path / "x.json", []

    def write(i):
        for _ in range(30):
            try:
                write_json(path, {"a": [i] * 2000})
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert len({*json.loads(path.read_text())["a"]}) == 1
    assert not errors and [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_permissions_and_links_stay(tmp_path):
    path, link = tmp_path / "x.json", tmp_path / "link.json"
    write_json(path, {"a": 1})
    path.chmod(0o600)
    link.symlink_to(path)
    write_json(link, {"a": 2})
    assert link.is_symlink() and json.loads(path.read_text()) == {"a": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_export_that_was_cut_short_is_refused(tmp_path, monkeypatch):
    mp.export_adapter(tuned(lora_alpha=4.0), "mine", tmp_path)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(hf_adapters, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        mp.export_adapter(tuned(lora_alpha=64.0), "mine", tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"is not the one that .* was written with"):
        mp.import_adapter(model(CONFIG, precision="float32"), tmp_path, "x")
    mp.export_adapter(tuned(lora_alpha=64.0), "mine", tmp_path)
    found = mp.import_adapter(model(CONFIG, precision="float32"), tmp_path, "x")
    assert found.method.lora_alpha == 64


def test_a_reader_beside_a_writer_sees_one_save(tmp_path):
    """The configuration says α, and every number is α too."""
    net = model(CONFIG, precision="float32")
    for alpha in (1.0, 2.0):
        for p in mp.attach(net, mp.LoRA(r=2, lora_alpha=alpha), str(alpha)).parameters():
            p.data[...] = alpha
    mp.save_adapter(net, "1.0", tmp_path)
    stop, fresh = threading.Event(), model(CONFIG, precision="float32")

    def write():
        while not stop.is_set():
            for name in ("1.0", "2.0"):
                mp.save_adapter(net, name, tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the JSON beside may be of another save
                adapter = mp.load_adapter(fresh, tmp_path, "x")
            values = {float(v) for p in adapter.parameters() for v in to_numpy(p.data).flat}
            assert values == {adapter.method.lora_alpha}
            mp.detach(fresh, "x")
    finally:
        stop.set()
        writer.join()


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert mp.save_adapter(tuned(), "mine", "~/a") == tmp_path / "a"
    assert mp.load_adapter(model(CONFIG, precision="float32"), "~/a").name == "a"
    mp.save_model(model(CONFIG), "~/base")
    assert mp.load_model("~/base").config == CONFIG
    mp.fit(tuned(), mp.Examples(*batch(CONFIG)), 1, 2, checkpoint="~/run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "base", "run"]


@pytest.mark.parametrize("name", ["", "\udcff", "a\0b", "a\nb", 7])
def test_names_that_cannot_be_written_are_refused_at_once(name):
    with pytest.raises(ValueError, match="an adapter's name is"):
        mp.attach(model(CONFIG), mp.LoRA(r=1), name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad, tmp_path):
    net = tuned()
    mp.adapters(net)["mine"].parameters()[0].data.flat[1] = bad
    mp.save_adapter(net, "mine", tmp_path / "a")
    mp.export_adapter(net, "mine", tmp_path / "b")
    for load, folder in ((mp.load_adapter, "a"), (mp.import_adapter, "b")):
        with pytest.raises(ValueError, match=r"infinite numbers or NaN in .*lora_"):
            load(model(CONFIG, precision="float32"), tmp_path / folder)
    broken = model(CONFIG)
    broken.ln_f.weight.data[0] = bad
    mp.save_model(broken, tmp_path / "base")
    with pytest.raises(ValueError, match=r"infinite numbers or NaN in ln_f\.weight"):
        mp.load_model(tmp_path / "base")


def test_a_file_of_ours_without_its_checksum_is_refused(tmp_path):
    mp.save_adapter(tuned(), "mine", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    with Safetensors(path) as file:
        arrays = {name: file.read(name) for name in file.entries}
        metadata = {key: value for key, value in file.metadata.items() if key != "sha256"}
    write_safetensors(path, arrays, metadata)
    with pytest.raises(ValueError, match="its checksum does not fit"):
        mp.load_adapter(model(CONFIG, precision="float32"), tmp_path, "x")


def test_each_reader_names_the_other(tmp_path):
    net = tuned()
    mp.save_adapter(net, "mine", tmp_path / "ours")
    mp.export_adapter(net, "mine", tmp_path / "theirs")
    fresh = model(CONFIG, precision="float32")
    with pytest.raises(ValueError, match="which load_adapter reads"):
        mp.import_adapter(fresh, tmp_path / "ours")
    with pytest.raises(ValueError, match="import_adapter reads HF"):
        mp.load_adapter(fresh, tmp_path / "theirs")


def test_files_of_older_versions_are_read_or_refused_in_one_sentence(tmp_path):
    net = tuned()
    mp.save_adapter(net, "mine", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    with Safetensors(path) as file:
        arrays = {name: file.read(name) for name in file.entries}
        config = json.loads(file.metadata["config"])
    config["base_fingerprint"] = config.pop("base")["fingerprint"]
    config["peft_type"] = "LORA"
    write_arrays(path, arrays, {"config": json.dumps(config)})
    write_json(tmp_path / "adapter_config.json", config)
    fresh = model(CONFIG, precision="float32")
    assert mp.load_adapter(fresh, tmp_path, "x").method == mp.LoRA(r=2)
    with pytest.raises(ValueError, match=r"another base: base\.fingerprint is"):
        mp.load_adapter(model(CONFIG, seed=1, precision="float32"), tmp_path)
    run = tmp_path / "run"
    mp.fit(tuned(), mp.Examples(*batch(CONFIG)), 2, 2, checkpoint=run, until=1)
    with Safetensors(run) as file:
        arrays = {name: file.read(name) for name in file.entries}
        old = json.loads(file.metadata["run"])
    old["settings"] = old.pop("identity")
    write_arrays(run, arrays, {"run": json.dumps(old)})
    with pytest.raises(ValueError, match="as files of older versions do; remove it"):
        mp.fit(tuned(), mp.Examples(*batch(CONFIG)), 2, 2, checkpoint=run)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_models_and_adapters_can_be_pickled(kind):
    net = model(CONFIG.with_(width=8), precision="float32")
    mp.quantize(net, kind, block=4)
    mp.attach(net, mp.Bottleneck(m=2, nonlinearity="identity"))
    twin = pickle.loads(pickle.dumps(net))
    ids, _ = batch(CONFIG)
    assert (to_numpy(twin(ids).data) == to_numpy(net(ids).data)).all()
    assert repr(twin) == repr(net)


def test_a_pattern_cannot_run_long():
    hostile = "((.+)+)+!"
    with pytest.raises(ValueError, match="rank_pattern holds"):
        mp.LoRA(rank_pattern={hostile: 1})
    with pytest.raises(ValueError, match="rank_pattern"):
        mp.attach(model(CONFIG), mp.LoRA(r=2, rank_pattern={"*a" * 500: 1}))
    found = mp.LoRA(r=2, rank_pattern={"^blocks.0.*v_proj$": 1, r"0\.attn.*": 2})
    ranks = [d.lora_A.shape[0] for d in mp.attach(model(CONFIG), found).deltas.values()]
    assert ranks == [2, 1]


def test_a_random_matrix_that_no_file_holds_is_bounded():
    with pytest.raises(ValueError, match=r"r must be a whole number in \[1, 65536\)"):
        mp.VeRA(r=10**6)


def test_the_base_is_not_saved_with_parameters_replaced(tmp_path):
    net = model(CONFIG)
    mp.attach(net, mp.Full(), "all")
    with pytest.raises(ValueError, match=r"'all' has replaced parameters .*; merge it first"):
        mp.save_model(net, tmp_path)
    assert not [*Path(tmp_path).iterdir()]
    mp.use(net, None)
    mp.save_model(net, tmp_path)
