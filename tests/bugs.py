"""The planted bugs: those of each method, from its spec, and those of all the rest."""

import minipeft as mp
from methods import SPECS
from spec import GPT2, LLAMA, Bug

LORA = mp.LoRA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))  # square weights
DROPS = mp.LoRA(r=2, lora_alpha=3.0, lora_dropout=0.4, target_modules=("q_proj", "down_proj"))
PREFIX = mp.Prefix(num_virtual_tokens=1)
HOUSLBY = mp.Bottleneck(m=3, nonlinearity="gelu")

KEEPING = (
    Bug("attach: gradient into a frozen weight",
        "for _, p in base_parameters(model):\n    p.requires_grad = False",
        "for _, p in base_parameters(model):\n    pass", 10, LORA, module="peft.attach"),
    Bug("attach: two adapters share their state",
        "deltas = method.make_deltas(model, np.random.default_rng(to_python(rng)))",
        "new = method.make_deltas(model, np.random.default_rng(to_python(rng)))\n"
        "deltas = next((a.deltas for a in adapters(model).values()), new)",
        9, LORA, module="peft.attach"),
    Bug("detach: the change stays at its sites",
        "del adapter.modules[path].deltas[name]", "pass", 6, LORA, module="peft.attach"),
    Bug("unmerge: by subtraction in float32",
        "swap(dict(model.named_modules()), receipt.before)\n"
        "tie(model)\ninstall(model, adapter)",
        "swap(dict(model.named_modules()), {path: Parameter(p.data - "
        "adapter.deltas[path[:-7]].change(), False) for path, p in base_parameters(model) "
        "if path[:-7] in adapter.deltas})\n"
        "tie(model)\ninstall(model, adapter)", 6, LORA, module="peft.merge"),
    Bug("merge: does not look at the weights first",
        "check_merge(model, adapter, after)", "pass", 7, LORA, module="peft.merge"),
    Bug("merge: forgets the last weight",
        "{path: Parameter(a, requires_grad=False) for path, a in arrays.items()}",
        "{path: Parameter(a, requires_grad=False) for path, a in list(arrays.items())[:-1]}",
        5, LORA, module="peft.merge"),
    Bug("save: drops a tensor",
        "arrays = {hf_name(path, method): a for path, a in adapter.saved().items()}\n"
        'write_arrays(folder / "adapter_model.safetensors", arrays, '
        '{"config": json.dumps(config)})',
        "arrays = {hf_name(path, method): a for path, a in [*adapter.saved().items()][1:]}\n"
        'write_arrays(folder / "adapter_model.safetensors", arrays, '
        '{"config": json.dumps(config)})', 3, LORA, module="io.checkpoint"),
    Bug("load: leaves the first tensor as it was drawn",
        "for key, p in adapter.named_parameters():\n"
        "    p.data = xp.asarray(arrays[hf_name(key, method)]).reshape(p.shape)",
        "for key, p in [*adapter.named_parameters()][1:]:\n"
        "    p.data = xp.asarray(arrays[hf_name(key, method)]).reshape(p.shape)",
        8, LORA, module="io.checkpoint"),
    Bug("load: does not look at the base's fingerprint",
        'difference(theirs, ours, "base")', "None", 8, LORA, module="io.checkpoint"),
    Bug("resume: forgets the optimiser's moments",
        "for name, a in state.items():\n    a[...] = xp.asarray(arrays[name])",
        "for name, a in [pair for pair in state.items() if pair[0][1] != '/']:\n"
        "    a[...] = xp.asarray(arrays[name])", 8, LORA, module="train.fit"),
    Bug("resume: counts the steps anew",
        "optimizer.steps, optimizer.skipped = steps, counts", "pass",
        8, LORA, module="train.fit"),
    Bug("rows of a batch: chosen and others mixed up",
        "where(chosen, with_delta, without)", "where(chosen, without, with_delta)",
        15, LORA, module="model.layers"),
    Bug("quantise: always to the level above", "0.5 * (low + high)", "low",
        17, LORA, module="model.quantize"),
    Bug("quantise: the two codes of a byte in the other order",
        "codes[::2] << 4 | codes[1::2]", "codes[1::2] << 4 | codes[::2]",
        17, LORA, module="model.quantize"),
    Bug("quantise: the scales' mean forgotten",
        "scales = self.scales.data + self.mean if self.double else self.scales",
        "scales = self.scales.data if self.double else self.scales",
        17, LORA, module="model.quantize"),
)  # fmt: skip

MODEL = (
    Bug("causal mask: off by one",
        "mask = xp.triu(masked, k=S - T + 1)",
        "mask = xp.triu(masked, k=S - T + 2)",
        11, LORA, module="model.kv_cache"),
    Bug("causal mask: aligned to the start",
        "mask = xp.triu(masked, k=S - T + 1)",
        "mask = xp.triu(masked, k=1)",
        12, LORA, module="model.kv_cache"),
    Bug("padding: visible to attention",
        "hidden = ~is_token[:, None, :]", "hidden = np.zeros_like(is_token[:, None, :])",
        11, LORA, module="model.kv_cache"),
    Bug("padding: counted in positions",
        "place = is_token.cumsum(axis=1) - 1",
        "place = np.ones_like(is_token).cumsum(axis=1) - 1",
        11, LORA, GPT2, module="model.kv_cache"),
    Bug("window: one slot too wide", "mask + xp.tril(masked, k=S - T - window)",
        "mask + xp.tril(masked, k=S - T - window - 1)",
        13, PREFIX, LLAMA.with_(window=3), module="model.kv_cache"),
    Bug("parallel: the MLP behind attention", "x if self.parallel else attended", "attended",
        13, PREFIX, GPT2.with_(parallel=True),
        module="model.transformer"),
    Bug("rope scaling: slow pairs as before",
        "kept + (1.0 - kept) / factor", "1.0 + 0.0 * kept",
        13, PREFIX, LLAMA.with_(rope_scaling=(8.0, 1.0, 4.0, 6.0)),
        module="model.transformer"),
    Bug("rotary: the share that stays, forgotten",
        "concat([F.rope(x[..., :R], cos, sin), x[..., R:]], axis=-1)",
        "concat([F.rope(x[..., :R], cos, sin), x[..., R:] * 0.0], axis=-1)",
        13, PREFIX, LLAMA.with_(rotary=0.5, head_width=4),
        module="model.transformer"),
    Bug("qk norm: of the queries only",
        "q = self.q_norm(split_heads(q, self.heads))\n"
        "k = self.k_norm(split_heads(k, self.kv_heads))",
        "q = self.q_norm(split_heads(q, self.heads))\nk = split_heads(k, self.kv_heads)",
        13, PREFIX, LLAMA.with_(qk_norm=True), module="model.transformer"),
    Bug("shared start: only the first row's gradient", "g[:, :self.shared].sum(axis=0)",
        "g[0, :self.shared]", 14, LORA, module="model.shared_start"),
    Bug("shared start: the rows behind read it too", "dx[1:, :self.shared] = 0.0", "pass",
        14, LORA, module="model.shared_start"),
    Bug("shared start: beside active dropout", "is_random(model)", "False",
        14, mp.LoRA(r=2, lora_dropout=0.5), module="train.batch_gradient"),
    Bug("cache: new keys over the last of the old",
        "buffer[:, :, S:end] = new.data", "buffer[:, :, S - 1 : end - 1] = new.data",
        12, LORA, module="model.kv_cache"),
    Bug("RoPE: gradient turned the wrong way", "lambda g: turn(g, -sin)",
        "lambda g: turn(g, sin)", 4, LORA, module="engine.functional"),
    Bug("layer norm: the gradient's part along n not taken off", "h -= n * slope", "pass",
        4, HOUSLBY, GPT2, module="engine.functional"),
    Bug("SiLU: σ missing in its slope", "slope[part] += s", "pass",
        4, HOUSLBY, module="engine.functional"),
    Bug("engine: gradients of an operand used twice overwrite each other",
        "arrived[source] = arrived[source] + dx", "arrived[source] = dx",
        4, HOUSLBY, module="engine.tensor"),
    Bug("engine: a frozen parameter stays on the tape",
        "self.node = Node(self.shape, array=self.data) if train else None",
        "self.node = Node(self.shape, array=self.data) if train else self.node",
        10, LORA, module="model.layers"),
)  # fmt: skip

TRAINING = (
    Bug("accumulation: sum of the parts' means",
        "chunked_loss(model, ids, labels, count)", "chunked_loss(model, ids, labels)",
        14, LORA, module="train.batch_gradient"),
    Bug("accumulation: parts draw the same dropout masks",
        "RowRNG(seed, rows)", "RowRNG(seed, range(len(rows)))",
        14, DROPS, module="train.batch_gradient"),
    Bug("recomputing: new dropout masks", "f_again = preserve_rng_state(f)", "f_again = f",
        14, DROPS, module="model.gradient_checkpointing"),
    Bug("dropout: also at evaluation",
        "return x if rng is None or self.p == 0 else F.dropout(x, self.p, rng)",
        "return F.dropout(x, self.p, rng or np.random.default_rng(0))",
        5, DROPS, module="model.layers"),
    Bug("loss: counts padding",
        "labels, a = np.asarray(labels).reshape(-1), value(logits)",
        "labels, a = np.maximum(np.asarray(labels).reshape(-1), 0), value(logits)",
        11, LORA, module="engine.functional"),
    Bug("AdamW: bias decayed",
        "1.0 - lr * p.rate * self.weight_decay if p.ndim > 1 else 1.0",
        "1.0 - lr * p.rate * self.weight_decay if True else 1.0",
        16, HOUSLBY, module="engine.optimizer"),
    Bug("AdamW: no bias correction", "rate = lr / (1.0 - b1**t)", "rate = lr",
        16, LORA, module="engine.optimizer"),
)  # fmt: skip

IA3 = mp.IA3()
SEVERAL = (
    Bug("merge: whatever acts before it", "check_order(model, adapter)", "pass",
        18, IA3, module="peft.merge"),
    Bug("merge: an adapter of some rows into all", "used.get(name) is not None", "False",
        18, LORA, module="peft.merge"),
    Bug("merge: into weights that a DoRA was made for",
        "check_made_for(model, adapter, after)", "pass", 18, LORA, module="peft.merge"),
    Bug("unmerge: puts the adapter outermost",
        "now = {name: None} | now\n"
        "now = {key: now[key] for key in order} if now.keys() == set(order) else now",
        "now = now | {name: None}", 18, LORA, module="peft.merge"),
    Bug("merge: what it merged stays frozen",
        "if not adapters(model):\n    train_base(model)\nreturn Receipt(model, adapter, before,"
        " after, used, lost, sum_of_bits(model))",
        "return Receipt(model, adapter, before, after, used, lost, sum_of_bits(model))",
        19, LORA, module="peft.merge"),
    Bug("detach: switches all others off",
        "use(model, others(model, name))", "use(model, None)", 18, LORA, module="peft.attach"),
    Bug("identity: the Config does not count",
        '{"config": config_identity(model.config), "fingerprint": fingerprint(model)}',
        '{"config": {}, "fingerprint": fingerprint(model)}',
        20, LORA, module="io.identity"),
    Bug("identity: the data do not count", "digest(pairs)", "digest([])",
        20, LORA, module="io.identity"),
    Bug("identity: the labels do not count", '("labels", np.asarray(labels, "int64"))',
        '("labels", np.zeros(1))', 20, LORA, module="io.identity"),
    Bug("identity: the options of a method do not count",
        "json.loads(json.dumps(asdict(adapters(model)[name].method)))", "{}",
        20, DROPS, module="io.identity"),
    Bug("resume: any run",
        'run = json_object(file.metadata.get("run", "{}"), path)\n'
        "self.check_identity(path, run)",
        'run = json_object(file.metadata.get("run", "{}"), path)',
        20, LORA, module="train.fit"),
    Bug("transaction: nothing is undone",
        "for container, held in containers:\n    container.clear()\n"
        "    add = container.update if type(container) is dict else container.extend\n"
        "    add(held)", "pass", 21, LORA, module="model.transaction"),
    Bug("transaction: what trains is not undone",
        "for parameter, node in nodes:\n    parameter.node = node", "pass",
        21, LORA, module="model.transaction"),
    Bug("use: stops half-way", "undo(noted)", "pass", 21, mp.Full(), module="peft.attach"),
    Bug("disabled: an interrupt leaves it so",
        "try:\n    try:\n        use(model, None)\n        yield model\n    finally:\n"
        "        switch_back()\nexcept BaseException:\n    switch_back()\n    raise",
        "try:\n    use(model, None)\n    yield model\nfinally:\n    switch_back()",
        21, LORA, module="peft.attach"),
)  # fmt: skip

OF_METHODS = tuple(bug for spec in SPECS.values() for bug in spec.bugs)
BUGS = (*OF_METHODS, *KEEPING, *MODEL, *TRAINING, *SEVERAL)
