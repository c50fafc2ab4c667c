"""Divide images into training and validation: by files, at random with a seed."""
import random
from collections import Counter
from typing import List, Sequence, Tuple

from mmvssd.datasets.formats import Item


def divide(items: Sequence[Item], fraction: float, seed: int) -> Tuple[List[Item], List[Item]]:
    """Divide images.

    Each class keeps at least one image for training. Classes of a classification are divided each
    by itself, so that both parts have them in equal shares.

    Args:
        items: At least two.
        fraction: Share of the images that validate, between 0 and 1.
        seed: The same seed and the same files give the same parts.

    Returns:
        Images of training and of validation, each in the order of ``items``.
    """
    order = sorted(range(len(items)), key=lambda index: str(items[index].image))
    random.Random(seed).shuffle(order)
    if items[0].label is not None:
        chosen = _stratified(items, order, fraction)
    else:
        shown = [index for index in order if items[index].classes]
        empty = [index for index in order if not items[index].classes]
        chosen = _sparing(items, shown, max(1, round(fraction * len(shown))))
        chosen |= set(empty[:round(fraction * len(empty))])
    if not chosen:  # each class has one image
        chosen = {next((index for index in order if not items[index].classes), order[0])}
    return ([item for index, item in enumerate(items) if index not in chosen],
            [item for index, item in enumerate(items) if index in chosen])


def _stratified(items: Sequence[Item], order: Sequence[int], fraction: float) -> set:
    by_class: dict = {}
    for index in order:
        by_class.setdefault(items[index].label, []).append(index)
    chosen = set()
    for indices in by_class.values():
        count = max(1, round(fraction * len(indices))) if len(indices) > 1 else 0
        chosen.update(indices[:min(count, len(indices) - 1)])
    return chosen


def _sparing(items: Sequence[Item], order: Sequence[int], count: int) -> set:
    """Choose images without which each class still has an image."""
    left = Counter(label for item in items for label in item.classes)
    chosen = set()
    for index in order:
        if len(chosen) == min(count, len(order) - 1):
            break
        classes = items[index].classes
        if all(left[label] > 1 for label in classes):
            left.subtract(classes)
            chosen.add(index)
    return chosen
