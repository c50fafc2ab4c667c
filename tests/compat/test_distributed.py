"""Training in two processes on the CPU, through MMEngine's own launcher and Runner."""
import math
import multiprocessing
import os
import socket
import sys

import pytest
import torch
from mmengine.dist import utils as dist_utils
from torch.distributed import TCPStore

from mmvssd.compat import distributed, model_wrappers

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='MMEngine would take the GPU')


@pytest.fixture(autouse=True)
def start_method():
    """Put back how processes start: MMEngine's launchers make it 'spawn' for the whole process."""
    before = multiprocessing.get_start_method(allow_none=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def check_trained(done, reports):
    """Both ranks trained on data of their own and hold the same finite weights."""
    assert done.returncode == 0, done.stdout[-3000:]
    first, second = reports
    assert all(math.isfinite(loss) for loss in first['losses'] + second['losses'])
    assert first['losses'] != second['losses']
    assert len(first['losses']) == 4
    assert first['weights'] == second['weights']


@pytest.mark.slow
def test_two_processes_train_one_model(train, tmp_path):
    """A config for GPUs as it is: nccl, SyncBN; gradients are synchronised, and it says so."""
    done, reports = train(tmp_path, 2, model=dict(norm='SyncBatchNorm'), sync_bn='torch')
    check_trained(done, reports)
    assert reports[0]['wrapper'] == 'MMDistributedDataParallel'
    assert reports[0]['layers'][1] == '_BatchNormXd'
    for message in ('runs on gloo instead of nccl', 'it is reverted to BatchNorm',
                    "sync_bn='torch' is left out"):
        assert done.stdout.count(message) == 1


@pytest.mark.slow
def test_own_wrapper_and_own_group(train, tmp_path):
    """A config's ``model_wrapper_cfg`` is respected, and so is a group that is there already."""
    done, reports = train(tmp_path, 2, own_group=True,
                          model_wrapper_cfg=dict(find_unused_parameters=True))
    check_trained(done, reports)
    assert all(report['find_unused_parameters'] for report in reports)
    assert 'nccl' not in done.stdout


@pytest.fixture
def launched(monkeypatch):
    """What a launcher would start, by name: ``launched(launcher, backend)`` -> the backend."""
    backends = []
    monkeypatch.setattr(torch.distributed, 'init_process_group',
                        lambda backend, **kwargs: backends.append(backend))
    for key, value in dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1',
                           MASTER_PORT=29500, SLURM_PROCID=0, SLURM_NTASKS=1, SLURM_LOCALID=0,
                           SLURM_NODELIST='here', OMPI_COMM_WORLD_LOCAL_RANK=0,
                           OMPI_COMM_WORLD_SIZE=1, OMPI_COMM_WORLD_RANK=0).items():
        monkeypatch.setenv(key, str(value))

    def launch(launcher, backend):
        dist_utils.init_dist(launcher, backend=backend)
        return backends.pop()
    return launch


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
@pytest.mark.parametrize(('asked', 'started'), [('nccl', 'gloo'), ('gloo', 'gloo'), ('mpi', 'mpi')])
def test_launchers_start_a_cpu_backend(launched, launcher, asked, started):
    set_device = torch.cuda.set_device
    assert launched(launcher, asked) == started
    assert torch.cuda.set_device is set_device


def test_gloo_is_stopped_before_the_interpreter_ends(python):
    """A thread of gloo that outlives it aborts the process, now and then."""
    done = python('-c', """
import atexit, os, torch
atexit.register(lambda: print('left running:', torch.distributed.is_initialized()))
import mmvssd
from mmengine.dist import init_dist
os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1',
                  MASTER_PORT='0')
init_dist('pytorch', backend='gloo')
print('runs:', torch.distributed.is_initialized())
""")
    assert done.stdout.split('\n')[-3:-1] == ['runs: True', 'left running: False'], done.stderr


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks Linux for its interfaces')
@pytest.mark.parametrize(('nodes', 'given', 'listens'), [
    (1, None, None), (2, None, 'lo'), (2, 'eth7', 'eth7')])
def test_gloo_listens_where_other_nodes_reach_it(launched, monkeypatch, nodes, given, listens):
    monkeypatch.setenv('GROUP_WORLD_SIZE', str(nodes))
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', given or '')  # to be put back after the test
    if given is None:
        monkeypatch.delenv('GLOO_SOCKET_IFNAME')
    assert launched('pytorch', 'gloo') == 'gloo'
    assert os.environ.pop('GLOO_SOCKET_IFNAME', None) == listens


def test_an_interface_that_is_not_found_out(monkeypatch):
    monkeypatch.setattr(socket, 'if_nameindex', lambda: [(1, 'no-such-device')])
    assert distributed._interface_towards('127.0.0.1') is None


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_restart_has_a_meeting_place_of_its_own(monkeypatch, device):
    server = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    given = []
    monkeypatch.setattr(torch.distributed, 'init_process_group',
                        lambda backend, **settings: given.append(settings))
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: None)
    monkeypatch.setattr(distributed, 'get_device', lambda: device)
    for restarts in range(3):
        for key, value in dict(RANK=1, LOCAL_RANK=0, WORLD_SIZE=4, MASTER_ADDR='127.0.0.1',
                               MASTER_PORT=server.port, TORCHELASTIC_RESTART_COUNT=restarts,
                               TORCHELASTIC_USE_AGENT_STORE=True).items():
            monkeypatch.setenv(key, str(value))
        dist_utils.init_dist('pytorch', backend='gloo')
    assert given[0] == {}
    for restarts, settings in enumerate(given[1:], 1):
        assert (settings['rank'], settings['world_size']) == (1, 4)
        settings['store'].set('address', str(restarts))
    assert [server.get(f'restart_{restarts}/address') for restarts in (1, 2)] == [b'1', b'2']


def test_stock_where_there_is_a_gpu(launched, monkeypatch):
    devices = []
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'set_device', devices.append)
    assert launched('pytorch', 'nccl') == 'nccl'
    assert devices == [0]
    passed = []
    monkeypatch.setattr(model_wrappers, 'get_device', lambda: 'cuda')
    model_wrappers._wrap_model(lambda *args: passed.append(args), 'runner', None, 'model')
    model_wrappers._convert_sync_batchnorm(lambda *args: passed.append(args), 'model', 'mmcv')
    assert passed == [('runner', None, 'model'), ('model', 'mmcv')]


def test_the_configs_wrapper_is_not_changed():
    """The Runner's config is written into the checkpoint; only a copy gets ``device_ids``."""
    cfg = dict(type='MMDistributedDataParallel', static_graph=True)
    given = model_wrappers._cpu_wrapper_cfg(None, cfg)
    assert given == dict(cfg, device_ids=None)
    assert 'device_ids' not in cfg
    other = dict(type='MMFullyShardedDataParallel')
    assert model_wrappers._cpu_wrapper_cfg(None, other) == other


def test_applied_once():
    launcher = dist_utils._init_dist_pytorch
    distributed.apply()
    assert dist_utils._init_dist_pytorch is launcher
    assert launcher.__wrapped__.__module__ == 'mmengine.dist.utils'
