"""A small training with MMEngine's Runner, for the tests to start in processes of its own.

``python toy_runner.py '{"work_dir": ..., ...}'`` trains on the CPU and writes what the tests ask
about to ``rank{n}.json`` in the work directory.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmvssd  # noqa: F401


class ToyData(Dataset):
    """Eight points of a plane; ``metainfo`` as OpenMMLab's datasets have it."""

    metainfo = dict(classes=('a', 'b'), palette=[(0, 0, 0), (255, 255, 255)])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = torch.tensor([index / 8, 1 - index / 4])
        return dict(inputs=x, target=x.sum(-1, keepdim=True) + index % 3)


class ToyModel(BaseModel):
    """A regression that records its losses."""

    def __init__(self, norm='BatchNorm1d'):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 4), getattr(nn, norm)(4), nn.Linear(4, 1))
        self.losses, self.dtypes = [], set()

    def forward(self, inputs, target=None, mode='tensor'):
        y = self.layers(inputs)
        self.dtypes.add(str(y.dtype))
        if mode != 'loss':
            return [y]
        loss = (y.float() - target).square().mean()
        self.losses.append(loss.item())
        return dict(loss=loss)


class NumpyScore(BaseMetric):
    """Gives a numpy scalar, as the metrics of MMSegmentation do."""

    def process(self, data_batch, data_samples):
        self.results.append(1.0)

    def compute_metrics(self, results):
        return dict(score=np.float64(len(results)), score32=np.float32(0.5))


def build(options):
    """A Runner for two epochs, with the hooks whose state ends up in a checkpoint."""
    optim_wrapper = dict(optimizer=options.get('optimizer', dict(type='AdamW', lr=0.01)),
                         clip_grad=dict(max_norm=1.0))
    optim_wrapper.update(options.get('optim_wrapper', {}))
    loader = dict(batch_size=2, num_workers=0, dataset=ToyData(),
                  collate_fn=dict(type='default_collate'),
                  sampler=dict(type='DefaultSampler', shuffle=True))
    return Runner(
        model=ToyModel(**options.get('model', {})),
        work_dir=options['work_dir'],
        train_dataloader=loader, val_dataloader=loader, val_evaluator=Evaluator(NumpyScore()),
        optim_wrapper=optim_wrapper,
        param_scheduler=options.get('param_scheduler', [
            dict(type='LinearLR', start_factor=0.1, begin=0, end=2, by_epoch=False),
            dict(type='MultiStepLR', milestones=[1, 2], by_epoch=True)]),
        train_cfg=dict(by_epoch=True, max_epochs=options.get('max_epochs', 2)), val_cfg=dict(),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='score',
                                           rule='greater'),
                           logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='EMAHook')],
        env_cfg=dict(dist_cfg=dict(backend='nccl')),
        launcher=options.get('launcher', 'none'), resume=options.get('resume', False),
        cfg={key: options[key] for key in ('model_wrapper_cfg', 'sync_bn') if key in options},
        randomness=dict(seed=0), log_level='WARNING')


def report(runner):
    """What became of the model, for the tests to judge."""
    model = getattr(runner.model, 'module', runner.model)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return dict(
        wrapper=type(runner.model).__name__, layers=[type(m).__name__ for m in model.layers],
        find_unused_parameters=getattr(runner.model, 'find_unused_parameters', None),
        losses=model.losses, dtypes=sorted(model.dtypes), weights=weights.tolist(),
        epoch=runner.epoch, iter=runner.iter)


def main():
    """Train, and report."""
    options = json.loads(sys.argv[1])
    if options.get('own_group'):
        torch.distributed.init_process_group('gloo')
    runner = build(options)
    runner.train()
    Path(options['work_dir'], f'rank{runner.rank}.json').write_text(json.dumps(report(runner)))


if __name__ == '__main__':
    main()
