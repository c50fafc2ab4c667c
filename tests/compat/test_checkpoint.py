"""MMEngine's checkpoints load under ``weights_only=True``, and nothing else does."""
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader

from mmvssd.compat import checkpoint, checkpoint_classes

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 6),
                                reason='this PyTorch loads everything by default')


@pytest.fixture(scope='module')
def trained(train, tmp_path_factory):
    """A work directory with the checkpoints of a Runner; the package changes nothing in saving."""
    work_dir = tmp_path_factory.mktemp('trained')
    done, _ = train(work_dir)
    assert done.returncode == 0, done.stdout
    return work_dir


@pytest.mark.slow
def test_stock_refuses_its_own_checkpoint(python, trained):
    """The problem is there; when this fails, a later stack has solved it."""
    code = 'import sys, mmengine.runner as r; r.CheckpointLoader.load_checkpoint(sys.argv[1])'
    done = python('-c', code, str(trained / 'epoch_2.pth'), env={'MMVSSD_PATCHES': 'off'})
    assert 'Weights only load failed' in done.stderr


@pytest.mark.slow
def test_resumes_in_another_process(train, trained):
    done, (report,) = train(trained, resume=True, max_epochs=3)
    assert done.returncode == 0, done.stdout
    assert report['epoch'] == 3
    assert report['iter'] == 12
    # Only the third epoch was trained: four steps of the twelve.
    assert len(report['losses']) == 4


SCHEDULERS = dict(
    ConstantLR={}, ConstantMomentum={}, CosineAnnealingLR=dict(T_max=4),
    CosineRestartLR=dict(periods=[2], restart_weights=[1], eta_min=0),
    ExponentialLR=dict(gamma=0.9), LinearLR={}, MultiStepLR=dict(milestones=[1, 1, 2]),
    OneCycleLR=dict(eta_max=1, total_steps=4), PolyLR={},
    ReduceOnPlateauLR=dict(monitor='loss'), StepLR=dict(step_size=1))


@pytest.mark.parametrize('name', SCHEDULERS)
def test_schedulers_need_no_more(name):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    scheduler = PARAM_SCHEDULERS.build(dict(type=name, optimizer=optimizer, **SCHEDULERS[name]))
    state = through_a_file(scheduler.state_dict())
    assert state == scheduler.state_dict()
    scheduler.load_state_dict(state)


@pytest.mark.parametrize('name', ['SGD', 'AdamW', 'Adam', 'RMSprop', 'Adagrad'])
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'AmpOptimWrapper'])
def test_optimizers_need_no_more(name, wrapper):
    model = torch.nn.Linear(2, 1)
    wrapper = build_optim_wrapper(model, dict(
        type=wrapper, optimizer=dict(type=name, lr=0.1), clip_grad=dict(max_norm=1)))
    wrapper.update_params(model(torch.ones(1, 2)).square().mean())
    wrapper.load_state_dict(through_a_file(wrapper.state_dict()))


def through_a_file(value):
    """What ``torch.load`` makes, by its own default, of what ``torch.save`` wrote."""
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return torch.load(stream)


SCRIPT = """
import sys, torch
checkpoint, malicious = sys.argv[1:]
for _ in range(2):
    try:
        torch.load(malicious)
    except Exception as error:
        print(type(error).__name__, 'posix.system' in str(error), error.__suppress_context__)
with open(checkpoint, 'rb') as file:
    print(*torch.load(file)['meta'])
print(*torch.serialization.load(checkpoint)['meta'])
print('mmengine.runner' in sys.modules, torch.load.__name__)
"""


@pytest.mark.slow
def test_in_a_script_that_imports_pytorch_only(run_installed, trained, tmp_path):
    """By path and as a file; and what it does not know is refused, with one message."""
    marker, path = tmp_path / 'marker', tmp_path / 'malicious.pth'
    torch.save(dict(meta=Malicious(marker)), path)
    out = run_installed('-c', SCRIPT, trained / 'epoch_2.pth', path)
    assert out.splitlines()[:2] == ['UnpicklingError True True'] * 2
    first, second, last = out.splitlines()[2:]
    assert first == second
    assert 'experiment_name' in first
    assert last == 'False load'
    assert not marker.exists()


@pytest.mark.slow
def test_left_out(python, trained):
    """The error says so, and PyTorch's is not hidden."""
    code = 'import sys; from mmvssd.checkpoint import read_checkpoint; read_checkpoint(sys.argv[1])'
    done = python('-c', code, str(trained / 'epoch_2.pth'), env={'MMVSSD_PATCHES': '-checkpoint'})
    message = done.stderr.splitlines()[-1]
    assert 'Weights only load failed' in message  # PyTorch's own words
    assert message.endswith('MMVSSD_PATCHES leaves out the patch that allows what MMEngine writes '
                            'into its checkpoints')


def test_every_kind_of_checkpoint_loads(trained):
    paths = sorted(trained.glob('*.pth'))
    assert any(path.name.startswith('best_') for path in paths)
    for path in paths:
        loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        history = loaded['message_hub']['log_scalars']['train/loss']
        assert isinstance(history, HistoryBuffer)
        assert history.statistics('min') == min(history.data[0])
        assert isinstance(loaded['message_hub']['runtime_info']['best_score'], np.float64)


class Malicious:
    """Its unpickling writes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f'echo unpickled > {self.marker}',)


def test_malicious_pickle_is_refused_and_runs_nothing(tmp_path):
    marker, path = tmp_path / 'marker', tmp_path / 'malicious.pth'
    torch.save(dict(state_dict={}, meta=Malicious(marker)), path)
    with pytest.raises(pickle.UnpicklingError, match='holds posix.system, which is not a part'):
        CheckpointLoader.load_checkpoint(str(path))
    assert not marker.exists()
    # It would have worked: the check above is not idle.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_an_address_is_loaded_as_safely(tmp_path, monkeypatch):
    """MMEngine leaves that to torch.hub, whose default is to run what a file says."""
    marker, folder = tmp_path / 'marker', tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    torch.save(dict(meta=Malicious(marker)), folder / 'there.pth')  # as if downloaded before
    with pytest.raises(pickle.UnpicklingError, match='holds posix.system, which is not a part'):
        CheckpointLoader.load_checkpoint('http://127.0.0.1:9/there.pth')
    assert not marker.exists()


@pytest.mark.parametrize(('version', 'given', 'passed'), [
    ('2.4.1', {}, True), ('2.5.0', dict(weights_only=False), False), ('2.13.0', {}, None)])
def test_older_versions_of_pytorch_load_as_safely(tmp_path, monkeypatch, version, given, passed):
    torch.save({}, tmp_path / 'x.pth')
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion(version))
    seen = checkpoint._load(lambda f, **kwargs: kwargs, str(tmp_path / 'x.pth'), **given)
    assert seen.get('weights_only') is passed


class Getattr:
    """Pickles as ``getattr(owner, name)``."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.mark.parametrize(('owner', 'name'), [
    (HistoryBuffer, '__init__'), (HistoryBuffer, 'register_statistics'),
    (np.ndarray, 'tofile'), (torch.Tensor, 'min')])
def test_getattr_gives_the_few_methods_only(owner, name):
    with pytest.raises(pickle.UnpicklingError, match=f'takes {name!r} of .* by getattr'):
        through_a_file(Getattr(owner, name))


def test_object_arrays_are_refused():
    with pytest.raises(pickle.UnpicklingError, match='holds a numpy dtype that is not of'):
        through_a_file(np.array([1, None], dtype=object))


def test_other_dtypes_are_the_users_choice():
    palette = np.arange(3, dtype=np.uint8)
    with pytest.raises(pickle.UnpicklingError, match="dtype 'u1'; checkpoints hold float64"):
        through_a_file(palette)
    kind = type(palette.dtype)
    torch.serialization.add_safe_globals([kind])
    try:
        assert through_a_file(palette).tolist() == [0, 1, 2]
    finally:
        kept = [entry for entry in torch.serialization.get_safe_globals() if entry is not kind]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(kept)


@pytest.mark.parametrize(('there', 'here'), [
    ('numpy.core.multiarray', 'numpy._core.multiarray'),
    ('numpy._core.multiarray', 'numpy.core.multiarray')])
def test_reads_what_the_other_numpy_wrote(tmp_path, there, here):
    """The same file, its pickle with the path that the other numpy writes."""
    ours, theirs = tmp_path / 'ours.pth', tmp_path / 'theirs.pth'
    torch.save(dict(history=HistoryBuffer([1.0, 2.0], [1, 1]), score=np.float64(0.25)), ours)
    with zipfile.ZipFile(ours) as source, zipfile.ZipFile(theirs, 'w') as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith('data.pkl'):
                content = content.replace(here.encode(), there.encode())
                assert there.encode() in content
            target.writestr(name, content)
    loaded = torch.load(theirs)
    assert loaded['score'] == 0.25
    assert loaded['history'].data[0].tolist() == [1.0, 2.0]


def test_few_and_applied_once():
    checkpoint_classes.allow()
    before = set(torch.serialization.get_safe_globals())
    checkpoint_classes.allow()
    assert set(torch.serialization.get_safe_globals()) == before
    assert len(checkpoint_classes.safe_globals()) <= 15


def test_bytes_that_a_pickle_writes_as_text():
    assert checkpoint_classes.data('a\xff', 'latin1') == b'a\xff'
    with pytest.raises(pickle.UnpicklingError, match="as text in 'zip'"):
        checkpoint_classes.data('a', 'zip')


def test_leaves_a_getattr_that_the_user_allowed(monkeypatch):
    added = []
    monkeypatch.setattr(torch.serialization, 'get_safe_globals', lambda: [getattr])
    monkeypatch.setattr(torch.serialization, 'add_safe_globals', added.extend)
    checkpoint_classes.allow()
    assert 'getattr' not in [entry.__qualname__ for entry in added]
    assert HistoryBuffer in added
