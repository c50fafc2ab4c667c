"""Numbers that are not finite: found before the optimizer takes them, named, stopped or skipped."""
import copy
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data
from mmvssd.engine import FiniteCheckHook
from mmvssd.engine.numerics.finite_check import SCALER_PATIENCE, Batch, RandomState
from mmvssd.errors import ConfigError, NumericalFault

TOY_TRAINING = Path(__file__).with_name('toy_training.py')
_spec = importlib.util.spec_from_file_location('toy_training', TOY_TRAINING)
_module = importlib.util.module_from_spec(_spec)
sys.modules['toy_training'] = _module  # where torch.compile looks for it
_spec.loader.exec_module(_module)
Toy, build, weights_of = _module.Toy, _module.build, _module.weights_of

WAYS = {  # of breaking: what is said of it, and whether the image can be told
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
             r'1 Inf of 1 numbers; its inputs were finite', False),
}
WHAT = {'forward': 'loss and gradients', 'between forward': 'loss and gradients', 'loss': 'loss',
        'backward': 'gradients', 'between backward': 'gradients'}


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
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def toy(*arguments, **options):
    torch.manual_seed(0)
    return Toy(*arguments, **options)


@pytest.fixture
def said(monkeypatch):
    """What the hook logs, one entry a message."""
    messages = []
    monkeypatch.setattr('mmvssd.engine.numerics.finite_check.print_log',
                        lambda text, logger, level: messages.append(text))
    return messages


@pytest.mark.parametrize('way', WAYS)
def test_stop_names_where_it_arose(way, tmp_path, said):
    watch = Watch()
    runner = build(tmp_path, toy(way), FiniteCheckHook(), watch)
    with pytest.raises(NumericalFault, match=rf'(?s)^Iteration 3 of 4 \(epoch 1, learning rate '
                       rf'0.01\): {WHAT[way]} not finite; .*{WAYS[way][0]}'):
        runner.train()
    assert same(watch.before[-1][1], watch.state(runner)[1])
    assert weights_of(runner) == torch.cat(
        [watch.before[-1][0][name].flatten() for name, _ in runner.model.named_parameters()]
    ).tolist()
    message, = said
    assert ('Images with such numbers: folder/5.png\n' in message) == WAYS[way][1]
    assert '  Batch: folder/4.png, folder/5.png\n' in message
    assert 'default_hooks.finite_check.action=skip' in message


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('optimizer', ['AdamW', 'SGD'])
def test_skip_leaves_all_as_it_was(way, optimizer, tmp_path, said):
    watch, after = Watch(), WatchAfter()
    momentum = dict(momentum=0.9) if optimizer == 'SGD' else {}
    model = toy(way)
    runner = build(tmp_path, model, FiniteCheckHook('skip', max_skips=1), watch, after, epochs=2,
                   optim_wrapper=dict(optimizer=dict(type=optimizer, lr=0.01, weight_decay=0.1,
                                                     **momentum),
                                      clip_grad=dict(max_norm=1.0)))
    runner.train()
    for step in range(8):
        left, _ = after.after[step]
        assert same(watch.before[step], left) == (step in (2, 6))
    assert all(map(math.isfinite, weights_of(runner) + watch.losses[3:6] + watch.losses[7:]))
    assert model.stem[1].num_batches_tracked == 6
    # the second run of a step drew what the first drew
    assert model.drawn[2] == model.drawn[3]
    assert model.drawn[7] == model.drawn[8]
    assert [text.count('folder/5.png') > 0 for text in said] == [True, True, False]
    assert said[1].endswith('The step is skipped; 2 so far')
    assert said[2].startswith('FiniteCheckHook: 2 of 8 steps were skipped')


@pytest.mark.parametrize('action', ['stop', 'skip'])
def test_a_sound_training_is_not_changed(action, tmp_path, said):
    runs = []
    for number, hooks in enumerate(([], [FiniteCheckHook(action)])):
        watch, after = Watch(), WatchAfter()
        runner = build(tmp_path / str(number), toy(), *hooks, watch, after, epochs=2)
        runner.train()
        assert not any(module._forward_hooks or module._forward_pre_hooks
                       for module in runner.model.modules())
        runs.append([watch.before, after.after])
    assert same(*runs)
    expected = ['FiniteCheckHook: 0 of 8 steps were skipped for numbers that are not finite']
    assert said == (expected if action == 'skip' else [])


def test_large_gradients_are_no_fault(tmp_path):
    """The sum of their squares would not be finite in float32."""

    class Large(Toy):
        def forward(self, *args, **kwargs):
            return {name: loss * 1e25 for name, loss in super().forward(*args, **kwargs).items()}

    build(tmp_path, Large(), FiniteCheckHook()).train()


def test_too_many_in_a_row_stop(tmp_path, said):
    runner = build(tmp_path, toy('forward', always=True), FiniteCheckHook('skip', max_skips=2))
    with pytest.raises(NumericalFault, match='Iteration 3 of 4'):
        runner.train()
    assert said[-1].endswith('2 steps in a row were skipped before this one, as many as max_skips '
                             'allows')


def test_the_count_survives_a_resume(tmp_path, said):
    build(tmp_path, toy('forward'), FiniteCheckHook('skip')).train()
    build(tmp_path, toy('forward'), FiniteCheckHook('skip'), epochs=3, resume=True).train()
    assert [text.splitlines()[-1] for text in said if 'so far' in text] == [
        f'The step is skipped; {count} so far' for count in (1, 2, 3)]
    assert said[-1].startswith('FiniteCheckHook: 3 of 12 steps were skipped')


def test_accumulated_gradients(tmp_path, said):
    """The step that two batches make is left out; the one that holds the image is named."""
    watch, after = Watch(), WatchAfter()
    runner = build(tmp_path, toy('backward'), FiniteCheckHook('skip'), watch, after, epochs=2,
                   optim_wrapper=dict(accumulative_counts=2, clip_grad=dict(max_norm=1.0)))
    runner.train()
    assert same(watch.before[2], after.after[3][0])
    assert not same(watch.before[0], after.after[1][0])
    assert said[0].startswith('Iteration 4 of 8 ')
    assert 'First iteration 3, in the backward pass, breaking' in said[0]
    assert said[0].count('First') == 1
    assert all(map(math.isfinite, weights_of(runner)))


def test_broken_weights_are_named(tmp_path):
    """As of a checkpoint that a run without this hook left behind."""
    model = toy()
    with torch.no_grad():
        model.block.last.weight[0, 1] = torch.nan
    with pytest.raises(NumericalFault, match=r'block.last \(Conv2d\): .* its inputs were finite; '
                       r'weight of block.last \(Conv2d\) has 1 NaN and 0 Inf of 16 numbers itself'):
        build(tmp_path, model, FiniteCheckHook()).train()


def test_a_fault_that_does_not_come_back(tmp_path, said):
    model, steps = toy(), []

    def break_once(module, args, output):
        steps.append(0)
        return output * torch.nan if len(steps) == 2 else output

    model.breaking.register_forward_hook(break_once)
    with pytest.raises(NumericalFault, match=r'(?s)Iteration 2 of 4 .* Run again, the step gave '
                                             r'finite numbers in every module'):
        build(tmp_path, model, FiniteCheckHook()).train()
    assert 'Batch: folder/2.png, folder/3.png' in said[0]


def test_bad_images_are_named(tmp_path, said):
    model = toy()

    def spoil(preprocessor, arguments):
        for image, sample in zip(arguments[0]['inputs'], arguments[0]['data_samples']):
            if sample.img_path == 'folder/3.png':
                image[1, 2, 3] = torch.inf

    model.data_preprocessor.register_forward_pre_hook(spoil)
    with pytest.raises(NumericalFault, match=r'data_preprocessor \(ImgDataPreprocessor\): its '
                       r'output .* 1 Inf .*; its inputs had 0 NaN and 1 Inf of 108 numbers '
                       r'already'):
        build(tmp_path, model, FiniteCheckHook()).train()
    assert 'Images with such numbers: folder/3.png\n' in said[0]


def half_precision(tmp_path, model, *hooks, optimizer=None, **options):
    """A training with a loss scaler, as float16 has it on a GPU."""
    optim_wrapper = dict(type='AmpOptimWrapper', optimizer=optimizer or dict(type='SGD', lr=0.01))
    runner = build(tmp_path, model, *hooks, optim_wrapper=optim_wrapper, **options)

    class WithScaler(Hook):
        priority = 'HIGHEST'

        def before_train(self, runner):
            runner.optim_wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**16)

    runner.register_hook(WithScaler())
    return runner


@pytest.mark.skipif(torch.cuda.is_available(), reason='the scaler is that of the CPU')
class TestLossScaler:
    @pytest.mark.parametrize('fused', [False, True])
    def test_overflows_are_its_business(self, fused, tmp_path, said):
        """A fused optimizer is called all the same, and leaves the step out itself."""
        runner = half_precision(tmp_path, toy('backward'), FiniteCheckHook(), epochs=2,
                                optimizer=dict(type='AdamW', lr=0.01, fused=fused))
        runner.train()
        assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
        assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**14
        assert not said
        assert all(map(math.isfinite, weights_of(runner)))

    def test_but_not_at_every_step(self, tmp_path):
        runner = half_precision(tmp_path, toy('backward', always=True), FiniteCheckHook(),
                                epochs=10)
        with pytest.raises(NumericalFault, match=rf'(?s)Iteration {SCALER_PATIENCE + 1} of 40 .*'
                           r': gradients not finite; .* in the backward pass, breaking'):
            runner.train()

    @pytest.mark.parametrize('way', ['forward', 'loss'])
    def test_a_loss_is_a_fault(self, way, tmp_path):
        with pytest.raises(NumericalFault, match=r'Iteration 3 of 4 .* loss'):
            half_precision(tmp_path, toy(way), FiniteCheckHook()).train()

    @pytest.mark.parametrize('way', ['forward', 'loss'])
    def test_a_loss_is_skipped(self, way, tmp_path, said):
        watch, after = Watch(), WatchAfter()
        runner = half_precision(tmp_path, toy(way), FiniteCheckHook('skip'), watch, after)
        runner.train()
        assert same(watch.before[2][0], after.after[2][0][0])
        assert said[-1].startswith('FiniteCheckHook: 1 of 4 steps were skipped')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(action='ignore'), r"action is 'ignore', expected 'stop' or 'skip'"),
    (dict(max_skips=0), r'max_skips is 0, expected a whole number of steps, 1 or more'),
    (dict(max_skips=2.5), r'max_skips is 2.5, expected a whole number'),
])
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        FiniteCheckHook(**options)


@pytest.mark.slow
def test_compiled_models(tmp_path):
    torch._dynamo.reset()
    runner = build(tmp_path, toy('backward'), FiniteCheckHook(),
                   cfg=dict(compile=dict(backend='eager')))
    with pytest.raises(NumericalFault, match=WAYS['backward'][0]):
        runner.train()


def test_random_states_are_put_back():
    state = RandomState()
    first = torch.rand(3)
    with state.repeated():
        assert torch.equal(torch.rand(3), first)
    second = torch.rand(3)
    state.restore()
    assert torch.equal(torch.rand(6), torch.cat([first, second]))


def sample_of(host):
    """An annotated data sample of a host."""
    from mmengine.structures import InstanceData, PixelData
    if host == 'mmpretrain':
        from mmpretrain.structures import DataSample
        return DataSample().set_gt_label(1).set_gt_score(torch.tensor([0., 1]))
    if host == 'mmdet':
        from mmdet.structures import DetDataSample
        return DetDataSample(gt_instances=InstanceData(labels=torch.tensor([1])))
    from mmseg.structures import SegDataSample
    return SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 2, 2)))


@pytest.mark.parametrize('host', ['mmpretrain', 'mmdet', 'mmseg'])
def test_data_samples_are_put_back(host):
    pytest.importorskip(host)
    sample = sample_of(host)
    name = 'gt_score' if host == 'mmpretrain' else next(iter(sample.keys()))
    own = sample.get(name)
    fields = set(sample.keys())
    batch = Batch(0, dict(data_samples=[sample]))
    batch.begin()
    setattr(sample, name, own + 1 if host == 'mmpretrain' else type(own)())
    sample.set_field(torch.ones(1), 'mixed')
    batch.rewind()
    assert set(sample.keys()) == fields
    assert sample.get(name) is own


def in_two_processes(tmp_path, **options):
    """Train the toy in two processes; returns what they logged and their reports."""
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1',
                       PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
         str(TOY_TRAINING), json.dumps(dict(options, work_dir=str(tmp_path)))],
        env=environment, timeout=240, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return (done.stdout + done.stderr,
            [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize(('way', 'action', 'counts'), [
    ('loss', 'skip', 1), ('forward', 'skip', 2), ('backward', 'stop', 1)])
def test_two_processes(way, action, counts, tmp_path):
    """The image is one process's: of its losses, where gradients are finite, it alone knows."""
    log, reports = in_two_processes(tmp_path, way=way, action=action, optim_wrapper=dict(
        accumulative_counts=counts, clip_grad=dict(max_norm=1.0)))
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
        assert log.count('FiniteCheckHook: 1 of 2 steps were skipped') == 1


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
                   'runner_type=FlexibleRunner', 'strategy.type=mmvssd.ShardedStrategy', expect=2,
                   env=dict(OMP_NUM_THREADS='1'))
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
