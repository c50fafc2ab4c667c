"""A training whose workers read large samples, for the tests to end from outside.

``python worker_runner.py '{"work_dir": ..., "start": "fork", "persistent": true}'`` prints the ids
of its workers at the second step, and goes on without an end.

A worker that is no fork imports this module: only what a data set needs is imported at its top.
"""
import json
import multiprocessing
import sys

import numpy as np
import torch
from torch.utils.data import Dataset


class Large(Dataset):
    """Samples that no pipe holds: a worker waits while it sends one."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return dict(inputs=torch.ones(2), mask=np.ones(200_000, np.uint8).tobytes())


def build(options):
    """Build the training."""
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    from mmvssd.engine.record import RunRecordHook

    class Toy(BaseModel):
        """A regression."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, inputs, mask=None, mode='tensor'):
            return dict(loss=self.layer(torch.stack(inputs)).square().mean())

    class Tell(Hook):
        """Say which workers there are."""

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 1:
                children = [child.pid for child in multiprocessing.active_children()]
                print('workers', *children, flush=True)

    return Runner(
        model=Toy(), work_dir=options['work_dir'],
        train_dataloader=dict(
            batch_size=1, num_workers=2, dataset=Large(),
            persistent_workers=options['persistent'],
            multiprocessing_context=options['start'],
            collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='DefaultSampler', shuffle=True)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-9)),
        train_cfg=dict(by_epoch=True, max_epochs=1_000_000),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=100_000)),
        custom_hooks=[Tell(), RunRecordHook()])


if __name__ == '__main__':
    from mmvssd.cli.command_line import run
    run(lambda: build(json.loads(sys.argv[1])).train())
