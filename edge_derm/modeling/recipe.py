"""Every choice of a training run, and the schedule that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edge_derm.modeling.augmentation import Augmentation

STORED = 1.15  # side of the stored pictures over that of the views, so that a crop loses no detail
STRIDE = 32  # of the whole network: sides that it divides are halved alike at every stage


@dataclass(frozen=True)
class TrainConfig:
    """Every choice of a run; two runs with equal configurations, data and versions are the same run."""

    variant: str = "mobilenet"
    dilation: dict[str, int] = field(default_factory=dict)
    alpha: float = 0.25
    size_px: int = 128
    epochs: int = 30
    weights: str | None = None  # path of weights to start from
    dropout: float = 0.2
    dropout_depth: int = 1  # blocks it reaches back over; 1: the classifier alone
    seed: int = 0
    budget_min: float | None = None
    batch: int | None = None  # None: 32, and 16 for fewer than 3000 training images, which need the steps
    learning_rate: float | None = None  # None: 2e-3 from given weights, 1e-2 from scratch
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.05
    adjustment: float = 1.0  # times log class frequency, added to the logits in training
    ema_epochs: float = 2.5  # horizon of the moving average of the weights
    augmentation: Augmentation = field(default_factory=Augmentation)
    attention: bool = False
    harden: float = 0.0  # norm of universal perturbations trained against, as a share of the images'; 0: none
    start_share: float = 0.5  # of the epochs, first, on views of 128 pixels where later ones are larger
    views_px: int | None = None  # side of the later views; None: see ``views_of``

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or (2e-3 if self.weights else 1e-2)


def views_of(size_px: int) -> int:
    """Side of the views that a network of this input is trained on last: five sixths of it, where that is large enough.

    A crop shows a lesion larger than the whole picture does, so a network trained on crops of its own input size meets smaller
    lesions later than it has learnt (Touvron et al., 2019, https://arxiv.org/abs/1906.06423); smaller views also train faster.
    """
    smaller = int(size_px * 5 / 6 / STRIDE + 0.5) * STRIDE
    return smaller if size_px % STRIDE == 0 and smaller >= 128 else size_px


def views_px(config: TrainConfig) -> int:
    """Side of the later views of a run; a perturbation to harden against is as large as the input."""
    return config.size_px if config.harden else config.views_px or views_of(config.size_px)


def side(config: TrainConfig, epoch: int, epochs: int) -> int:
    """Side of the views of an epoch (from 0) of so many: small pictures teach first what they can, at less cost."""
    last = views_px(config)
    small = not config.harden and epoch < int(config.start_share * epochs)
    return min(128, last) if small else last


def work(config: TrainConfig, first: int, epochs: int) -> float:
    """Pixels of one view in each of the epochs from ``first`` to the end, in all."""
    return float(sum(side(config, epoch, epochs) ** 2 for epoch in range(first, epochs)))


def seconds(config: TrainConfig) -> float:
    """Time that the epochs may take: the budget, with a tenth kept back for the rest."""
    return math.inf if config.budget_min is None else 0.9 * config.budget_min * 60


def affordable(config: TrainConfig, epoch: int, epochs: int, spent: float) -> int:
    """Epochs in all that fit the budget, at the speed of those done in ``spent`` seconds; the schedule shrinks with it."""
    if config.budget_min is None:
        return epochs
    done = work(config, 0, epochs) - work(config, epoch, epochs)
    fitting = epoch
    while (
        fitting < config.epochs and work(config, epoch, fitting + 1) / done * spent <= seconds(config) - spent
    ):
        fitting += 1
    return fitting


def keep(config: TrainConfig, done: int, steps: int) -> float:
    """Share of the average that stays at step ``done``; less at first, so that the start is forgotten."""
    return min(1 - 1 / (1 + config.ema_epochs * steps), (1 + done) / (10 + done))


def rate(config: TrainConfig, done: int, steps: int, epochs: int) -> float:
    """Learning rate of step ``done``: linear warm-up, then a cosine to a hundredth."""
    warmup, total = config.warmup_epochs * steps, epochs * steps
    if done < warmup:
        return config.peak * (done + 1) / (warmup + 1)
    progress = min(1.0, (done - warmup) / max(1.0, total - warmup))
    return config.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
