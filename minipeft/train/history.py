"""What training and evaluation return: the History of a run, and the Score of a model."""

from dataclasses import dataclass, field


@dataclass
class History:
    """A record of every step of a run: loss, learning rate, gradient norm, duration."""

    loss: list[float] = field(default_factory=list)  # nats per label, the mean over the batch
    lr: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)  # of all gradients together, not clipped
    seconds: list[float] = field(default_factory=list)
    ranks: dict[str, list[int]] = field(default_factory=dict)  # of each of AdaLoRA's targets
    stopped: str = ""  # why the run ended before its last step, if it did

    def add(self, loss, lr, norm, seconds):
        """Record one step."""
        self.loss.append(loss)
        self.lr.append(lr)
        self.norm.append(norm)
        self.seconds.append(seconds)

    def add_ranks(self, ranks, adapter=""):
        """Record the ranks after one step, {path of a target: rank}, of an adapter."""
        for path, rank in ranks.items():
            self.ranks.setdefault(f"{adapter} {path}".strip(), []).append(rank)

    def plot(self, axes=None):
        """Draw the loss at each step. Returns the matplotlib Axes, new ones unless given."""
        axes = axes or new_axes(5, 3)
        axes.plot(range(1, len(self.loss) + 1), self.loss, color="#0072B2", lw=1)
        axes.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def plot_ranks(self, axes=None):
        """Draw the rank of each target at each step of AdaLoRA. Returns the matplotlib Axes.

        Raises ValueError if no ranks were recorded: train an AdaLoRA adapter.
        """
        if not self.ranks:
            raise ValueError("no ranks were recorded; only training an AdaLoRA records them")
        axes = axes or new_axes(6, 1.2 + 0.25 * len(self.ranks))
        image = axes.imshow(list(self.ranks.values()), aspect="auto", cmap="viridis", vmin=0)
        axes.figure.colorbar(image, ax=axes, label="rank")
        axes.set_yticks(range(len(self.ranks)), self.ranks, fontsize=10)
        first, last = (sum(rank[i] for rank in self.ranks.values()) for i in (0, -1))
        axes.set(xlabel="step", title=f"{first} ranks at first, {last} in the end")
        return axes

    def __repr__(self):
        parts = [f"{len(self.loss)} steps"]
        if self.loss:
            parts.append(f"last loss {self.loss[-1]:.4f} nats")
        if self.stopped:
            parts.append(self.stopped)
        return f"History({', '.join(parts)})"


def new_axes(width, height):
    """Returns the Axes of a new matplotlib figure; width and height in inches."""
    import matplotlib.pyplot as plt  # imported only when a plot is drawn

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


@dataclass(frozen=True)
class Score:
    """How well a model answers: mean loss per answer token, and the share of exact answers."""

    loss: float  # nats per token of the answers
    exact: float  # the share of answers in which every token is right, from 0 to 1
