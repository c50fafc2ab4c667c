"""A small training in which one image, or a module, makes numbers that are not finite.

``python toy_training.py '[{"work_dir": ..., ...}, ...]'`` trains, one after the other, in a process
of its own, for the tests that start several. It writes what they ask about to ``rank{n}.json`` of
each work dir, and what was said to ``rank{n}.txt``.
"""
import copy
import itertools
import json
import os
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mmvssd.engine import FiniteCheckHook
from mmvssd.errors import NumericalFault

#: Of breaking: what is said of it, and whether the image can be told.
WAYS = {
    'forward': (r'First in the forward pass, breaking \(Breaking\): its output \(2, 4, 6, 6\) has '
                r'144 NaN and 0 Inf of 288 numbers; its inputs were finite', True),
    'between forward': (r'First in the forward pass, block.last \(Conv2d\): its output .* its '
                        r'inputs had 0 NaN and 144 Inf of 288 numbers already: block \(Block\) '
                        r'makes them before it', True),
    'backward': (r'First in the backward pass, breaking \(Breaking\): the gradient \(2, 4, 6, 6\) '
                 r'of its input has 144 NaN and 0 Inf of 288 numbers; that of its output was '
                 r'finite', True),
    'between backward': (r'First in the backward pass, block.first \(Conv2d\): the gradient '
                         r'\(2, 4, 6, 6\) that reaches its output has 144 NaN .*: block \(Block\) '
                         r'makes them with that output', True),
    'loss': (r'First in the forward pass, the model itself \(Toy\): its output \(\) has 0 NaN and '
             r'1 Inf of 1 number; its inputs were finite', False),
}
WHAT = {'forward': 'loss and gradients', 'between forward': 'loss and gradients', 'loss': 'loss',
        'backward': 'gradients', 'between backward': 'gradients'}

NUMBERS = itertools.count()  # a run's name is that of its messages
MARK = 100.0  # in a corner of the image at which modules misbehave
BAD = 5  # its index: of batches of two the second image of the third


class Images(Dataset):
    """Eight images with paths; the sixth is marked."""

    metainfo = dict(classes=('a', 'b'))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(index))
        if index == BAD:
            image[:, 0, 0] = MARK
        sample = BaseDataElement(metainfo=dict(img_path=f'folder/{index}.png'), label=index % 2)
        return dict(inputs=image, data_samples=sample)


class BreakBackward(torch.autograd.Function):
    """Passes a tensor on, and gives a gradient of NaN in some rows."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.save_for_backward(rows)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        rows, = ctx.saved_tensors
        return gradient.masked_fill(rows[:, None, None, None], torch.nan), None


class Breaking(nn.Module):
    """Breaks the rows that it is told of, in the way that it is told: see Toy."""

    def __init__(self, way):
        super().__init__()
        self.way, self.rows = way, None

    def forward(self, x):
        if self.way == 'forward':
            return x.masked_fill(self.rows[:, None, None, None], torch.nan)
        return BreakBackward.apply(x, self.rows) if self.way == 'backward' else x


class Block(nn.Module):
    """Parts, and a computation between them that may break."""

    def __init__(self, way):
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.way, self.rows = way, None

    def forward(self, x):
        y = self.first(x)
        if self.way == 'between forward':
            y = y.masked_fill(self.rows[:, None, None, None], torch.inf)
        if self.way == 'between backward':
            y = BreakBackward.apply(y, self.rows)
        return x + self.last(y)


class Toy(BaseModel):
    """A classifier with BatchNorm and dropout.

    Args:
        way: Of breaking: 'forward' and 'backward' in a module, 'between forward' and 'between
            backward' in what a block computes itself, 'loss' by a loss of inf with finite
            gradients; None to train.
        always: Break at each image, not at the marked one alone.
    """

    def __init__(self, way=None, always=False):
        super().__init__(data_preprocessor=ImgDataPreprocessor())
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4),
                                  nn.ReLU(inplace=True))
        self.block = Block(way)
        self.breaking = Breaking(way)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.way, self.always, self.drawn = way, always, []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        rows = inputs[:, 0, 0, 0] == MARK
        if self.always:
            rows = torch.ones_like(rows)
        self.block.rows = self.breaking.rows = rows
        x = self.drop(self.breaking(self.block(self.stem(inputs))))
        self.drawn.append((x == 0).sum().item())
        y = self.head(x.mean((2, 3))).float()
        loss = F.cross_entropy(y, torch.tensor([sample.label for sample in data_samples]))
        if self.way == 'loss' and rows.any():
            loss = loss + torch.inf
        return dict(loss=loss, accuracy=loss.new_tensor(torch.nan))  # not part of the loss


def build(work_dir, model, *hooks, epochs=1, optim_wrapper=None, **options):
    """A Runner over four batches of two images an epoch, in their order."""
    optim_wrapper = dict(dict(optimizer=dict(type='AdamW', lr=0.01)), **(optim_wrapper or {}))
    return Runner(
        model=model, work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=Images(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate')),
        optim_wrapper=optim_wrapper,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1),
                           logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(hooks), env_cfg=dict(dist_cfg=dict(backend='gloo')),
        randomness=dict(seed=0), experiment_name=f'toy{next(NUMBERS)}', **options)


def weights_of(runner):
    """All weights in one list."""
    return torch.cat([t.detach().flatten() for t in runner.model.parameters()]).tolist()


class Watch(Hook):
    """Keeps what a step may change, from before and after each iteration."""

    priority = 'HIGHEST'

    def __init__(self):
        self.before, self.after, self.losses = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before.append(self.state(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())

    def state(self, runner):
        return copy.deepcopy([runner.model.state_dict(), runner.optim_wrapper.state_dict()])


class WatchAfter(Watch):
    """The same from the end of each iteration."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after.append((self.state(runner), torch.get_rng_state()))


def same(a, b):
    """Tell whether nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def toy(*arguments, **options):
    """A :class:`Toy` of a fixed seed."""
    torch.manual_seed(0)
    return Toy(*arguments, **options)


def main(work_dir, way, action, optim_wrapper):
    """Train, and report."""
    file = Path(work_dir, f'rank{os.environ["RANK"]}')
    output = os.open(file.with_suffix('.txt'), os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    torch.manual_seed(0)
    runner = build(work_dir, Toy(way), FiniteCheckHook(action), launcher='pytorch',
                   optim_wrapper=optim_wrapper)
    fault = None
    try:
        runner.train()
    except NumericalFault as error:
        fault = str(error)
    report = dict(weights=weights_of(runner), fault=fault, iterations=runner.iter)
    file.with_suffix('.json').write_text(json.dumps(report))


if __name__ == '__main__':
    for run in json.loads(sys.argv[1]):
        main(**run)
