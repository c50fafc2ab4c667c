"""Short trainings with MESA, for the tests to start in processes of its own.

``python mesa_training.py '{"work_dir": ..., "runs": {name: options, ...}}'`` trains each on the CPU
and writes what the tests ask about to ``rank{n}.json`` in the work directory. Beside each step the
moving average is kept and the loss computed by hand.
"""
import copy
import json
import sys
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmvssd  # noqa: F401
from mmvssd.checkpoint import unwrapped

MOMENTUM = 0.2
WEIGHT = 1.5


class ToyImages(Dataset):
    """Eight images of three classes."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample
        image = torch.sin(torch.arange(3 * 8 * 8.).view(3, 8, 8) * (1 + index / 4))
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 3))


class ToyBackbone(nn.Sequential):
    """Features of an image; nothing in it depends on the batch or is drawn."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, inputs):
        return (super().forward(inputs), )


class Share(BaseMetric):
    """Sum of the scores of class 0, which tells weights apart."""

    def process(self, data_batch, data_samples):
        self.results += [sample['pred_score'][0].item() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(share=sum(results))


class ByHand(Hook):
    """Records the losses of each step, with MESA's as it should be."""

    def __init__(self):
        self.steps, self.average = [], None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = unwrapped(runner.model)
        self.expected = None
        if self.average is not None:
            inputs = torch.stack(data_batch['inputs'])
            with torch.no_grad():
                z, t = (head(backbone(inputs)) for backbone, head in (
                    (model.backbone, model.head), (self.average.backbone, self.average.head)))
            target = t.exp() / t.exp().sum(1, keepdim=True)
            log = z - z.exp().sum(1, keepdim=True).log()
            self.expected = -WEIGHT * (target * log).sum().item() / len(inputs)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append(dict(
            iter=runner.iter, expected=self.expected,
            **{name: outputs[name].item() for name in outputs if 'loss' in name}))
        model = unwrapped(runner.model)
        if self.average is None:
            self.average = copy.deepcopy(model)
        else:
            with torch.no_grad():
                for mean, now in zip(self.average.parameters(), model.parameters()):
                    mean.copy_((1 - MOMENTUM) * mean + MOMENTUM * now)


def build(work_dir, name, *, begin=0.25, batch_size=2, resume=None, launcher='none', amp=False,
          max_epochs=2):
    """A Runner for two epochs of four steps, or as many as the batches make."""
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='mmvssd.MESAClassifier', mesa_weight=WEIGHT, backbone=ToyBackbone(),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=8)))
    loader = dict(batch_size=batch_size, num_workers=0, dataset=ToyImages(),
                  sampler=dict(type='DefaultSampler', shuffle=True))
    optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.5, momentum=0.9))
    if amp:
        optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    return Runner(
        model=model, work_dir=f'{work_dir}/{name}', experiment_name=name,
        train_dataloader=loader, val_dataloader=loader, val_evaluator=Evaluator(Share()),
        optim_wrapper=optim_wrapper, train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        val_cfg=dict(),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1),
                           checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[dict(type='EMAHook', momentum=MOMENTUM, evaluate_on_origin=True,
                           priority='ABOVE_NORMAL'),
                      dict(type='mmvssd.MESAHook', begin=begin), ByHand()],
        resume=resume is not None, load_from=resume and f'{work_dir}/{resume}',
        launcher=launcher, env_cfg=dict(dist_cfg=dict(backend='gloo')),
        default_scope='mmpretrain', randomness=dict(seed=0), log_level='WARNING')


def flat(state, prefix=''):
    """The model's entries of a state dict, as numbers."""
    return torch.cat([value.flatten().float() for name, value in sorted(state.items())
                      if name.startswith(prefix)]).tolist()


def report(runner):
    """What became of a run, for the tests to judge."""
    hook = next(hook for hook in runner.hooks if isinstance(hook, ByHand))
    saved = torch.load(f'{runner.work_dir}/epoch_{runner.epoch}.pth', weights_only=False)
    log = next(Path(runner.work_dir).glob('*/vis_data/scalars.json'), None)
    model = unwrapped(runner.model)
    return dict(
        steps=hook.steps, teacher_left=model._teacher is not None,
        average=flat(hook.average.state_dict()), weights=flat(model.state_dict()),
        state_dict=flat(saved['state_dict']),
        ema_state_dict=flat(saved['ema_state_dict'], 'module.'),
        log=[json.loads(line) for line in log.read_text().splitlines()] if log else [])


def main():
    """Train, and report."""
    options = json.loads(sys.argv[1])
    init_default_scope('mmpretrain')
    reports = {}
    for name, settings in options['runs'].items():
        runner = build(options['work_dir'], name, **settings)
        runner.train()
        reports[name] = report(runner)
    Path(options['work_dir'], f'rank{runner.rank}.json').write_text(json.dumps(reports))


if __name__ == '__main__':
    main()
