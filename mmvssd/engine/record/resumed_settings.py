"""What a run that is resumed was told otherwise than the run before it."""
from typing import Iterator, List

from torch.optim import Optimizer

from mmvssd.checkpoint import class_names
from mmvssd.engine.record import run_facts
from mmvssd.errors import CheckpointError
from mmvssd.phrases import counted

#: Entry of a checkpoint's ``meta`` that holds what else it was trained with.
NOTES = 'mmvssd'
#: Settings that one kind of optimizer has and another has not.
_KINDS = ('betas', 'momentum', 'alpha', 'rho', 'lambd', 'etas', 'lr_decay')
#: Settings that a checkpoint brings back, whatever the recipe says; the learning rate is judged
#: with the batch.
_KEPT = ('weight_decay', 'eps', 'betas', 'momentum', 'dampening', 'nesterov', 'amsgrad', 'alpha',
         'decoupled_weight_decay')


def note(runner, checkpoint: dict) -> None:
    """Write into a checkpoint what the run that resumes it can compare itself with."""
    batch = run_facts.batch(runner)
    checkpoint['meta'][NOTES] = dict(batch=batch and batch.total)


def changes(runner, checkpoint: dict) -> List[str]:
    """List what differs from the run that wrote a checkpoint, with what becomes of it.

    Args:
        runner: A Runner whose optimizer and training data are built, before it loads.
        checkpoint: What it is about to go on from.

    Raises:
        CheckpointError: The optimizer is another one: its state means nothing to this one.
    """
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    groups = (checkpoint.get('optimizer') or {}).get('param_groups')
    found = list(_of_optimizer(optimizer, groups)) if (
        isinstance(optimizer, Optimizer) and groups) else []
    return [*found, *_of_batch(runner, checkpoint), *_of_classes(runner, checkpoint)]


def _of_optimizer(optimizer: Optimizer, saved: List[dict]) -> Iterator[str]:
    own = optimizer.param_groups
    kinds = [[name for name in _KINDS if name in groups[0]] for groups in (saved, own)]
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f'the checkpoint is of a run with another optimizer (one with {_listed(kinds[0])}) '
            f"than the recipe's {type(optimizer).__name__} (with {_listed(kinds[1])}). Resume with "
            'that one, or begin a new run from the weights with load_from')
    sizes = [[len(group['params']) for group in groups] for groups in (saved, own)]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f'the checkpoint has an optimizer of {counted(sum(sizes[0]), "parameter")} in '
            f'{counted(len(saved), "group")}, and the recipe one of {sum(sizes[1])} in '
            f'{len(own)}: paramwise_cfg, or what is frozen, has changed. Resume with the settings '
            'of before, or begin a new run from the weights with load_from')
    for name in _KEPT:
        pairs = {(_plain(before[name]), _plain(now[name])) for before, now in zip(saved, own)
                 if name in before and name in now and f'initial_{name}' not in before
                 and 'initial_momentum' not in before}
        changed = sorted(pair for pair in pairs if pair[0] != pair[1])
        if changed:
            yield (f'optimizer, {name}: {changed[0][0]} in the checkpoint, {changed[0][1]} in the '
                   f'recipe. The run goes on with {changed[0][0]}; the other needs a new run')


def _listed(names: List[str]) -> str:
    return ', '.join(names) or 'none of these settings'


def _plain(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _of_batch(runner, checkpoint: dict) -> Iterator[str]:
    before = ((checkpoint.get('meta') or {}).get(NOTES) or {}).get('batch')
    now = run_facts.batch(runner)
    if before and now and before != now.total:
        yield (f'batch: a step saw {counted(before, "image")} in the run that is resumed, and sees '
               f'{now.total} now. The run goes on, with other data in each step than it would have '
               'seen')


def _of_classes(runner, checkpoint: dict) -> Iterator[str]:
    before = class_names(checkpoint)
    # a loop of the user's may have a loader of another kind
    own = getattr(getattr(runner.train_dataloader, 'dataset', None), 'metainfo', None)
    now = class_names(dict(meta=dict(dataset_meta=own)))
    if before and now and before != now:
        place, was, is_ = next((place, was, is_) for place, (was, is_) in enumerate(zip(
            before + ['none'] * len(now), now + ['none'] * len(before))) if was != is_)
        yield (f'classes: {len(before)} in the checkpoint, {len(now)} in the data; the first that '
               f'differs is number {place}, {was!r} then and {is_!r} now. What was learnt belongs '
               'to the former')
