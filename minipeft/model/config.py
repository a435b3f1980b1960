"""The sizes of a transformer, and the shapes of its parameters, known without building it."""

from dataclasses import dataclass, fields, replace

from ..options import Options, option


@dataclass(frozen=True)
class Config(Options):
    """The sizes and choices of a transformer. The defaults are GPT-2's shape; see also `llama`.

    Raises ValueError if a size is not a whole number ≥ 1 or cannot be divided as needed, if a
    choice does not exist, or if a number is out of its range.
    """

    vocab: int = option(at_least=1)  # tokens in the vocabulary
    context: int = option(at_least=1)  # longest sequence, with padding and virtual tokens
    width: int = option(at_least=1)  # elements of each token's vector
    layers: int = option(at_least=1)  # transformer blocks
    heads: int = option(at_least=1)  # query heads
    kv_heads: int | None = option(None, at_least=1)  # key and value heads; None: heads
    ffn: int | None = option(None, at_least=1)  # width of the MLP; None: 4 · width
    norm: str = option("layer", one_of=("layer", "rms"))
    position: str = option("learned", one_of=("learned", "rope"))
    mlp: str = option("gelu", one_of=("gelu", "gelu-erf", "relu", "swiglu"))
    bias: bool = True  # of every Linear but the head
    tied: bool = True  # the head's weight is the token table
    dropout: float = option(0.0, at_least=0, below=1)
    norm_eps: float = option(1e-5, at_least=0, below=1)
    rope_theta: float = option(10000.0, at_least=1, below=1e12)
    init_std: float = option(0.02, at_least=0, below=10)

    # what single families of pretrained models do in another way
    head_width: int | None = option(None, at_least=1)  # elements of a head; None: width / heads
    qkv_bias: bool | None = None  # biases of q, k and v (Qwen 2); None: as `bias` says
    mlp_bias: bool | None = None  # biases of the MLP; None: as `bias` says
    qk_norm: bool = False  # RMSNorm of each head's queries and keys (Qwen 3)
    parallel: bool = False  # attention and MLP read the same input (GPT-NeoX)
    window: int | None = option(None, at_least=1)  # how many slots a query sees, its own too
    rotary: float = option(1.0, above=0, at_most=1)  # the share of a head that RoPE turns
    # factor, low and high number of turns, old context: see `scaled` (Llama 3.1)
    rope_scaling: tuple[float, float, float, float] | None = option(None, above=0)
    nope: tuple[int, ...] = option((), at_least=0)  # layers without RoPE (SmolLM 3)
    embedding_scale: float = 1.0  # multiplies the embeddings (Granite, as the next three)
    attention_scale: float | None = option(None, above=0)  # of q kᵀ; None: 1 / √head_width
    residual_scale: float = 1.0  # multiplies what a block adds to x
    logits_scale: float = option(1.0, above=0)  # the logits are divided by it

    @classmethod
    def field_label(cls):
        return "config key"

    @classmethod
    def gpt2(cls, **sizes):
        """LayerNorm, learned positions, GELU, biases, tied head.  Radford et al. 2019"""
        return cls(**sizes)

    @classmethod
    def llama(cls, **sizes):
        """RMSNorm, RoPE, SwiGLU, no biases, own head.  Touvron et al. 2023, arXiv:2302.13971"""
        shape = dict(norm="rms", position="rope", mlp="swiglu", bias=False, tied=False)
        return cls(**(shape | sizes))

    def __post_init__(self):
        super().__post_init__()
        defaults = {"kv_heads": self.heads, "ffn": 4 * self.width}
        if self.head_width is None:
            self.check_divides("width", "heads")
            defaults["head_width"] = self.width // self.heads
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("qkv_bias", "mlp_bias"):
            if getattr(self, name) == self.bias:  # so that one model has one Config
                object.__setattr__(self, name, None)
        if self.attention_scale == self.head_width**-0.5:
            object.__setattr__(self, "attention_scale", None)
        self.check_divides("heads", "kv_heads")
        if self.position == "rope" and (not self.rotary_width or self.rotary_width % 2):
            raise ValueError(
                f"RoPE turns pairs, but rotary · head_width = {self.rotary_width}; "
                "choose an even head_width"
            )
        if self.rope_scaling and self.rope_scaling[1] >= self.rope_scaling[2]:
            raise ValueError(f"rope_scaling {self.rope_scaling}: low must be below high")
        if any(layer >= self.layers for layer in self.nope):
            raise ValueError(f"nope names layers {self.nope}, and there are {self.layers}")

    def check_divides(self, big, small):
        """Raises ValueError if one size is not a multiple of another."""
        whole, parts = getattr(self, big), getattr(self, small)
        if whole % parts:
            raise ValueError(
                f"{big} {whole} cannot be divided by {small} {parts}; "
                f"make {big} a multiple of {small}"
            )

    @property
    def rotary_width(self):
        """How many elements of a head RoPE turns."""
        return int(self.head_width * self.rotary)

    def with_(self, **changes):
        """Returns this Config with some fields changed.

        A head_width of width / heads follows where these change.
        """
        if self.head_width * self.heads == self.width:
            changes = {"head_width": None} | changes
        return replace(self, **changes)

    @property
    def linear_shapes(self):
        """{path in the Transformer: (out, in)} of the weight of every Linear layer."""
        D, kv, q = self.width, self.kv_heads * self.head_width, self.heads * self.head_width
        block = {
            "attn.q_proj": (q, D),
            "attn.k_proj": (kv, D),
            "attn.v_proj": (kv, D),
            "attn.o_proj": (D, q),
        }
        if self.mlp == "swiglu":
            block["mlp.gate_proj"] = (self.ffn, D)
        block |= {"mlp.up_proj": (self.ffn, D), "mlp.down_proj": (D, self.ffn)}
        shapes = {}
        for i in range(self.layers):
            shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
        return shapes if self.tied else shapes | {"lm_head": (self.vocab, D)}

    @property
    def target_shapes(self):
        """{path: (out, in)} of what a method may target: Linears, token table and head.

        The token table counts as a Linear layer on one-hot ids: `vocab` in, `width` out.
        """
        tables = {"wte": (self.width, self.vocab), "lm_head": (self.vocab, self.width)}
        blocks = {
            path: shape for path, shape in self.linear_shapes.items() if path not in tables
        }
        return blocks | tables

    @property
    def parameter_shapes(self):
        """{path: shape} of every parameter of a Transformer of this Config."""
        D = self.width
        tables = {"wte.weight": (self.vocab, D)}
        if self.position == "learned":
            tables["wpe.weight"] = (self.context, D)
        weights, biases = {}, {}
        for path, (n_out, n_in) in self.linear_shapes.items():
            weights[f"{path}.weight"] = n_out, n_in
            if self.has_bias(path):
                biases[f"{path}.bias"] = (n_out,)
        norms = [f"blocks.{i}.ln_{n}" for i in range(self.layers) for n in (1, 2)] + ["ln_f"]
        parts = ("weight", "bias") if self.norm == "layer" else ("weight",)
        gains = {f"{path}.{part}": (D,) for path in norms for part in parts}
        for i in range(self.layers if self.qk_norm else 0):
            gains |= {f"blocks.{i}.attn.{n}_norm.weight": (self.head_width,) for n in "qk"}
        return tables | weights | biases | gains

    def has_bias(self, path):
        """Returns whether the Linear at a path has a bias."""
        own = None
        if path.endswith(("q_proj", "k_proj", "v_proj")):
            own = self.qkv_bias
        elif "mlp." in path:
            own = self.mlp_bias
        return path != "lm_head" and (self.bias if own is None else own)

    @property
    def size(self):
        """How many parameters a Transformer of this Config has, by a formula.

        tables   V D + context D   (no context term with RoPE; another V D for an untied head)
        layer    2 D q + 2 D kv + 2 D ffn   (3 D ffn with SwiGLU), biases, two norms
        """
        D, kv, q = self.width, self.kv_heads * self.head_width, self.heads * self.head_width
        norm = 2 * D if self.norm == "layer" else D
        ups = 2 if self.mlp == "swiglu" else 1
        layer = 2 * D * q + 2 * D * kv + (ups + 1) * D * self.ffn + 2 * norm
        layer += self.bias * D + self.has_bias("q_proj") * (q + 2 * kv)
        layer += self.has_bias("mlp.up_proj") * (ups * self.ffn + D)
        layer += self.qk_norm * 2 * self.head_width
        tables = self.vocab * D * (1 if self.tied else 2)
        if self.position == "learned":
            tables += self.context * D
        return tables + self.layers * layer + norm


CHOICES = {  # {name of a field: what it may be} for the fields that are a choice of words
    field.name: field.metadata["one_of"] for field in fields(Config) if field.type is str
}
