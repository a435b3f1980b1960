"""The sizes of a transformer, and what follows from them without building one."""

from dataclasses import dataclass, fields, replace

from ..options import Options, option


@dataclass(frozen=True)
class Config(Options):
    """The sizes and choices of a transformer: GPT-2's shape by default, or Llama's.

    Raises ValueError for sizes that are no whole numbers ≥ 1 or cannot be divided as needed,
    for a choice that does not exist, and for a number out of its range.
    """

    vocab: int = option(at_least=1)
    context: int = option(at_least=1)  # the most slots that a sequence may take
    width: int = option(at_least=1)
    layers: int = option(at_least=1)
    heads: int = option(at_least=1)
    kv_heads: int | None = option(None, at_least=1)  # of keys and values; None: heads
    ffn: int | None = option(None, at_least=1)  # width of the MLP; None: 4 · width
    norm: str = option("layer", one_of=("layer", "rms"))
    position: str = option("learned", one_of=("learned", "rope"))
    mlp: str = option("gelu", one_of=("gelu", "swiglu"))
    bias: bool = True
    tied: bool = True  # the head's weight is the token table
    dropout: float = option(0.0, at_least=0, below=1)
    norm_eps: float = option(1e-5, at_least=0, below=1)
    rope_theta: float = option(10000.0, at_least=1, below=1e12)
    init_std: float = option(0.02, at_least=0, below=10)

    @classmethod
    def describe(cls):
        return "config key"

    @classmethod
    def gpt2(cls, **sizes):
        """LayerNorm, learned positions, GELU, biases, tied head.  Radford et al. 2019"""
        return cls(**sizes)

    @classmethod
    def llama(cls, **sizes):
        """RMSNorm, RoPE, SwiGLU, no biases.  Touvron et al. 2023, arXiv:2302.13971"""
        shape = dict(norm="rms", position="rope", mlp="swiglu", bias=False, tied=False)
        return cls(**(shape | sizes))

    def __post_init__(self):
        super().__post_init__()
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.ffn is None:
            object.__setattr__(self, "ffn", 4 * self.width)
        for big, small in (("width", "heads"), ("heads", "kv_heads")):
            whole, parts = getattr(self, big), getattr(self, small)
            if whole % parts:
                raise ValueError(
                    f"{big} {whole} cannot be divided by {small} {parts}; "
                    f"make {big} a multiple of {small}"
                )
        if self.position == "rope" and self.head_width % 2:
            raise ValueError(
                f"RoPE turns pairs, but width / heads = {self.head_width} is odd; "
                "choose an even quotient"
            )

    @property
    def head_width(self):
        """Width of one head."""
        return self.width // self.heads

    def with_(self, **changes):
        """The same Config with some fields changed."""
        return replace(self, **changes)

    @property
    def linears(self):
        """(out, in) of every Linear layer, by its path in the Transformer."""
        D, kv = self.width, self.kv_heads * self.head_width
        block = {
            "attn.q_proj": (D, D),
            "attn.k_proj": (kv, D),
            "attn.v_proj": (kv, D),
            "attn.o_proj": (D, D),
        }
        if self.mlp == "swiglu":
            block["mlp.gate_proj"] = (self.ffn, D)
        block |= {"mlp.up_proj": (self.ffn, D), "mlp.down_proj": (D, self.ffn)}
        paths = {}
        for i in range(self.layers):
            paths |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
        return paths if self.tied else paths | {"lm_head": (self.vocab, D)}

    @property
    def matrices(self):
        """(out, in) of what a method may change: the Linears, the token table and the head."""
        tables = {"wte": (self.width, self.vocab), "lm_head": (self.vocab, self.width)}
        blocks = {path: shape for path, shape in self.linears.items() if path not in tables}
        return blocks | tables

    @property
    def parameters(self):
        """{path: shape} of every parameter of a Transformer of this Config."""
        D = self.width
        tables = {"wte.weight": (self.vocab, D)}
        if self.position == "learned":
            tables["wpe.weight"] = (self.context, D)
        weights, biases = {}, {}
        for path, (n_out, n_in) in self.linears.items():
            weights[f"{path}.weight"] = n_out, n_in
            if self.bias and path != "lm_head":
                biases[f"{path}.bias"] = (n_out,)
        places = [f"blocks.{i}.ln_{n}" for i in range(self.layers) for n in (1, 2)]
        parts = ("weight", "bias") if self.norm == "layer" else ("weight",)
        norms = {f"{path}.{part}": (D,) for path in [*places, "ln_f"] for part in parts}
        return tables | weights | biases | norms

    @property
    def size(self):
        """How many parameters a Transformer of this Config has.

        tables  (V + context) D        (no context with RoPE; V D more for an untied head)
        layer   2 D² + 2 D kv + 2 or 3 D ffn, biases, two norms
        """
        D, kv = self.width, self.kv_heads * self.head_width
        norm = 2 * D if self.norm == "layer" else D
        ups = 2 if self.mlp == "swiglu" else 1
        layer = 2 * D * D + 2 * D * kv + (ups + 1) * D * self.ffn + 2 * norm
        if self.bias:
            layer += 2 * D + 2 * kv + ups * self.ffn + D
        tables = self.vocab * D * (1 if self.tied else 2)
        if self.position == "learned":
            tables += self.context * D
        return tables + self.layers * layer + norm


CHOICES = {
    field.name: field.metadata["one_of"] for field in fields(Config) if field.type is str
}
