"""A schedule that fits a number of images: epochs, batch, warm-up and learning rate."""
import math
from dataclasses import dataclass
from typing import Optional, Tuple

from mmvssd.datasets.formats import CLASSIFICATION, DETECTION, SEGMENTATION


@dataclass(frozen=True)
class Norm:
    """How much a task's training is to see.

    Attributes:
        batch: Images of a step on one device.
        seen: Images that a training sees in all, if its epochs lie between the next two.
        fewest: Fewest epochs.
        most: Most epochs.
        warm_up: Most steps of warming up.
    """

    batch: int
    seen: int
    fewest: int
    most: int
    warm_up: int


NORMS = {
    DETECTION: Norm(2, 20_000, 12, 100, 1000),
    SEGMENTATION: Norm(4, 40_000, 50, 200, 1500),
    CLASSIFICATION: Norm(32, 50_000, 30, 100, 5000),
}
#: How much longer a classifier trains that starts from nothing.
FROM_NOTHING = 3
#: Validations in a training, about.
VALIDATIONS = 12
#: Share of a training that may be spent on warming up.
WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class Schedule:
    """A schedule.

    Attributes:
        norm: What it follows.
        images: Images of training.
        batch: Images of a step.
        epochs: Passes over the images.
        published: The published recipe's learning rate, and the images of a step that it is for.
    """

    norm: Norm
    images: int
    batch: int
    epochs: int
    published: Tuple[float, int]

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass; the last may be of fewer images."""
        return math.ceil(self.images / self.batch)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.steps_per_epoch * self.epochs

    @property
    def warm_up(self) -> int:
        """Steps of warming up: two at least, for MMEngine's LinearLR never ends one of a step."""
        return max(2, min(self.norm.warm_up, round(WARM_UP_SHARE * self.steps)))

    @property
    def interval(self) -> int:
        """Epochs between validations."""
        return max(1, round(self.epochs / VALIDATIONS))

    @property
    def log_interval(self) -> int:
        """Steps between lines of the log: some lines an epoch, for a step may take seconds."""
        return max(1, min(50, self.steps_per_epoch // 4))

    @property
    def rate(self) -> float:
        """The learning rate, scaled with the root of the batch as AdamW's noise asks for."""
        rate, batch = self.published
        return float(f'{rate * math.sqrt(self.batch / batch):.2g}')


def choose(task: str, images: int, *, pretrained: bool, rate: float, rate_batch: int,
           epochs: Optional[int] = None, batch: Optional[int] = None) -> Schedule:
    """Choose a schedule.

    Args:
        task: 'det', 'seg' or 'cls'.
        images: Images of training.
        pretrained: Whether the backbone starts from a checkpoint.
        rate: Learning rate of the published recipe.
        rate_batch: Images of a step that it is meant for.
        epochs: Passes over them; None chooses.
        batch: Images of a step; None chooses. Segmentation takes at least two, over which a layer
            of its head normalizes.
    """
    norm = NORMS[task]
    if batch is None:
        batch = max(2 if task == SEGMENTATION else 1, min(norm.batch, images))
    if epochs is None:
        longer = FROM_NOTHING if task == CLASSIFICATION and not pretrained else 1
        epochs = min(norm.most, max(norm.fewest, round(norm.seen / images))) * longer
    return Schedule(norm, images, batch, epochs, (rate, rate_batch))
