"""Short trainings of a model that reads some outputs of its backbone, for the tests to start.

``python unused_training.py '[{"work_dir": ..., ...}, ...]'`` trains, one after the other, and
writes what ended each into ``rank{n}.json`` of its work dir.
"""
import json
import os
import sys
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmvssd.engine import UnusedParametersHook
from mmvssd.errors import ConfigError
from mmvssd.models import VSSD


class Images(Dataset):
    """Eight images."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.sin(torch.arange(3 * 32 * 32.).view(3, 32, 32) + index))


class Detector(BaseModel):
    """Reads the backbone's outputs from one on, as the FPN of RetinaNet does.

    Args:
        start: The first output that is read.
        idle: Have a layer that nothing reads.
        out_indices: Of the backbone.
    """

    def __init__(self, start=0, idle=False, out_indices=(0, 1, 2)):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = VSSD(
            dict(embed_dims=16, depths=(1, 1, 1), num_heads=(2, 2, 2)), out_indices=out_indices)
        self.start = start
        if idle:
            self.idle = nn.Linear(2, 2)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=sum(y.square().mean() for y in self.backbone(inputs)[self.start:]))


def build(work_dir, model, launcher='pytorch', find_unused=None, counts=1):
    """A Runner over four batches of two images in all."""
    return Runner(
        model=Detector(**model), work_dir=work_dir,
        train_dataloader=dict(
            batch_size=1, num_workers=0, dataset=Images(), collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=counts),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        custom_hooks=[UnusedParametersHook()], launcher=launcher,
        env_cfg=dict(dist_cfg=dict(backend='gloo')), experiment_name=Path(work_dir).name,
        cfg={} if find_unused is None else dict(find_unused_parameters=find_unused),
        log_level='WARNING')


def main(work_dir, **options):
    """Train, and report."""
    runner = build(work_dir, **options)
    error = None
    try:
        runner.train()
    except ConfigError as fault:
        error = str(fault)
    file = Path(work_dir, f'rank{os.environ.get("RANK", 0)}.json')
    file.write_text(json.dumps(dict(error=error, iterations=runner.iter)))


if __name__ == '__main__':
    for run in json.loads(sys.argv[1]):
        main(**run)
