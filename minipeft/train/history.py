"""What a run leaves behind: the History of its steps, and the Score of a model."""

from dataclasses import dataclass, field


@dataclass
class History:
    """What happened at each step: loss in nats, learning rate, gradient norm, seconds."""

    loss: list[float] = field(default_factory=list)  # a token, in the mean
    lr: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ranks: dict[str, list[int]] = field(default_factory=dict)  # of AdaLoRA's targets
    stopped: str = ""  # why it ended before its last step, if it did

    def add(self, loss, lr, norm, seconds):
        """Note one step."""
        self.loss.append(loss)
        self.lr.append(lr)
        self.norm.append(norm)
        self.seconds.append(seconds)

    def note(self, ranks, adapter=""):
        """Note the rank that each target, {path: rank}, of an adapter has after a step."""
        for path, rank in ranks.items():
            self.ranks.setdefault(f"{adapter} {path}".strip(), []).append(rank)

    def plot(self, axes=None):
        """Draw the loss over the steps; returns the matplotlib Axes."""
        axes = axes or empty_axes(5, 3)
        axes.plot(range(1, len(self.loss) + 1), self.loss, color="#0072B2", lw=1)
        axes.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def plot_ranks(self, axes=None):
        """Draw the rank of each target over the steps of AdaLoRA; returns the Axes.

        Raises ValueError if no ranks were noted.
        """
        if not self.ranks:
            raise ValueError("no ranks were noted: train an AdaLoRA")
        axes = axes or empty_axes(6, 1.2 + 0.25 * len(self.ranks))
        image = axes.imshow(list(self.ranks.values()), aspect="auto", cmap="viridis", vmin=0)
        axes.figure.colorbar(image, ax=axes, label="rank")
        axes.set_yticks(range(len(self.ranks)), self.ranks, fontsize=10)
        first, last = (sum(rank[i] for rank in self.ranks.values()) for i in (0, -1))
        axes.set(xlabel="step", title=f"{first} ranks at first, {last} in the end")
        return axes

    def __repr__(self):
        about = [f"{len(self.loss)} steps"]
        if self.loss:
            about.append(f"last loss {self.loss[-1]:.4f} nats")
        if self.stopped:
            about.append(self.stopped)
        return f"History({', '.join(about)})"


def empty_axes(width, height):
    """The Axes of a new figure of that size in inches."""
    import matplotlib.pyplot as plt  # only where a picture is asked for

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


@dataclass(frozen=True)
class Score:
    """Mean loss in nats per answer token, and the share of answers right in every letter."""

    loss: float
    exact: float
