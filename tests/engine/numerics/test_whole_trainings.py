"""Numbers that are not finite in trainings of the hosts' models and of several processes."""
import json
import math

import pytest
import torch
import toy_training

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data

#: Ways of breaking: what happens then, and over how many batches a step accumulates.
#: Stopping comes last, for all of them train in the same two processes.
IN_TWO_PROCESSES = {'loss': ('skip', 1), 'forward': ('skip', 2), 'backward': ('stop', 1)}


@pytest.fixture(scope='module')
def in_two_processes(run_script, tmp_path_factory):
    """Train the toys in two processes, one after the other; returns the folder of each."""
    folders = {way: tmp_path_factory.mktemp(way) for way in IN_TWO_PROCESSES}
    runs = [dict(way=way, action=action, work_dir=str(folders[way]), optim_wrapper=dict(
        accumulative_counts=counts, clip_grad=dict(max_norm=1.0)))
        for way, (action, counts) in IN_TWO_PROCESSES.items()]
    done = run_script(toy_training.__file__, json.dumps(runs), processes=2)
    said = [file.read_text() for folder in folders.values() for file in folder.glob('rank?.txt')]
    assert done.returncode == 0, '\n'.join([*said, done.stdout])[-5000:]
    return folders


@pytest.mark.slow
@pytest.mark.parametrize('way', IN_TWO_PROCESSES)
def test_two_processes(way, in_two_processes):
    """The image is one process's: of its losses, where gradients are finite, it alone knows."""
    folder, (action, _) = in_two_processes[way], IN_TWO_PROCESSES[way]
    log = ''.join((folder / f'rank{rank}.txt').read_text() for rank in range(2))
    reports = [json.loads((folder / f'rank{rank}.json').read_text()) for rank in range(2)]
    assert reports[0]['weights'] == reports[1]['weights']
    assert all(map(math.isfinite, reports[0]['weights']))
    assert log.count('folder/5.png') == (1 if way == 'loss' else 2)  # of the images; of the batch
    # samples take turns: 0 2 | 4 6 and 1 3 | 5 7
    assert '  Batch: folder/5.png, folder/7.png\n' in log
    assert 'First process 1, ' in log
    assert 'First process 0, ' not in log
    if action == 'stop':
        assert all('Iteration 2 of 2' in report['fault'] for report in reports)
    else:
        assert [report['fault'] for report in reports] == [None, None]
        assert log.count('FiniteCheckHook: 1 of 2 steps was skipped') == 1


RECIPES = dict(  # and a module of the head
    mmpretrain=('samples/vssd-nano_1xb64_digits.py', 'neck', 'GlobalAveragePooling'),
    mmdet=('samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py', 'rpn_head.rpn_conv', 'Conv2d'),
    mmseg=('samples/upernet_vssd-nano_1xb8_digits.py', 'decode_head.fpn_bottleneck', 'ConvModule'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with sample data in it."""
    folder = tmp_path_factory.mktemp('samples')
    make_sample_data(folder / 'data' / 'sample_digits', num_scenes=(8, 4), num_crops=(8, 4),
                     progress=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('host', RECIPES)
def test_models_of_the_hosts(host, data, tmp_path, monkeypatch, said):
    """A number in the head of each, and the paths of each one's data samples."""
    pytest.importorskip(host)
    recipe, name, kind = RECIPES[host]
    monkeypatch.chdir(data)
    cfg = load_config(recipe, work_dir=str(tmp_path), options={
        'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False, 'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False, 'optim_wrapper.optimizer.lr': 1e-5,
        'default_hooks.finite_check': dict(type='mmvssd.FiniteCheckHook', action='skip')})
    for entry in (cfg.model.backbone, cfg.model):
        entry.init_cfg = None
    if host == 'mmpretrain':  # which changes the data samples
        cfg.model.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)])
    runner = build_trainer(cfg)
    modules = dict(runner.model.named_modules())

    def spoil(module, args, output):
        if runner.iter == 1:
            output = output[0] if isinstance(output, tuple) else output
            output.data[1, 0] = torch.nan

    modules[name].register_forward_hook(spoil)
    runner.train_loop._max_epochs = 1
    runner.val_loop.run = lambda: None
    runner.train()
    assert len(said) == 2
    assert said[0].startswith('Iteration 2 of ')
    assert f'First in the forward pass, {name} ({kind}): its output (2, ' in said[0]
    assert said[1].startswith('FiniteCheckHook: 1 of ')
    images, batch = (line.partition(': ')[2].split(', ') for line in said[0].splitlines()[2:4])
    assert len(batch) == 2
    assert images == batch[1:]
    assert all((data / path).is_file() for path in batch)
    assert all(t.isfinite().all() for t in runner.model.state_dict().values())


@pytest.mark.slow
def test_sharded_weights(data, run_tool, tmp_path):
    """Two processes that hold half of the weights each."""
    (tmp_path / 'data').symlink_to(data / 'data')
    out = run_tool('dist_train.sh', 'samples/vssd-nano_1xb64_digits.py', 2, '--work-dir', 'run',
                   '--cfg-options', 'train_dataloader.batch_size=2',
                   'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
                   'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False',
                   'optim_wrapper.optimizer.lr=1e30', 'param_scheduler=None',
                   'runner_type=FlexibleRunner', 'strategy.type=mmvssd.ShardedStrategy', expect=2)
    assert 'Iteration 2 of 16 (epoch 1, learning rate 1e+30): ' in out
    for rank in range(2):
        assert f'  First process {rank}, in the forward pass, ' in out


@pytest.mark.slow
def test_a_training_that_diverges_ends_with_the_message(data, run_tool, tmp_path):
    """A learning rate beyond reason, on the command line."""
    (tmp_path / 'data').symlink_to(data / 'data')
    out = run_tool('train.py', 'samples/vssd-nano_1xb64_digits.py', '--work-dir', 'run', '--amp',
                   '--cfg-options', 'train_dataloader.batch_size=4',
                   'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
                   'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False',
                   'optim_wrapper.optimizer.lr=1e30', 'param_scheduler=None', expect=2)
    assert 'Traceback' not in out
    assert '--amp: autocast to bfloat16 (the one that autocast has on the CPU), loss scaling off' \
        in out
    *_, what, where, _ = out.strip().splitlines()
    assert what.startswith('NumericalFault: Iteration 2 of 16 (epoch 1, learning rate 1e+30): ')
    assert where.startswith('  First in the forward pass, backbone.')
    assert 'optim_wrapper.clip_grad' not in out.rpartition('What to do: ')[2]
    assert out.count('Images with such numbers: ') == 1
