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
        from . import plots

        return plots.history(self, axes)

    def plot_ranks(self, axes=None):
        """Draw the rank of each target over the steps of AdaLoRA; returns the Axes."""
        from . import plots

        return plots.ranks(self, axes)

    def __repr__(self):
        about = [f"{len(self.loss)} steps"]
        if self.loss:
            about.append(f"last loss {self.loss[-1]:.4f} nats")
        if self.stopped:
            about.append(self.stopped)
        return f"History({', '.join(about)})"


@dataclass(frozen=True)
class Score:
    """Mean loss in nats per answer token, and the share of answers right in every letter."""

    loss: float
    exact: float
