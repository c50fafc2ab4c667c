"""The doctor says what works, what does not and why, and its exit status agrees."""
import importlib
import os
import sys

import pytest
import torch

from mmvssd import import_errors
from mmvssd.cli import doctor
from mmvssd.compat import mmcv_ops, versions
from mmvssd.families import FAMILIES
from mmvssd_kernels import dispatch

HAS_ALL = all(versions.installed(name) for name in doctor.HOSTS.values())


@pytest.fixture(scope='module')
def run_doctor(tool_server):
    """Run it where neither a host nor the project is imported: its status and lines, unwrapped."""
    path = os.pathsep.join(filter(None, sys.path))
    env = dict(os.environ, PYTHONPATH=path, COLUMNS='200')
    env.pop('TRITON_INTERPRET', None)
    server = tool_server('--libraries', env=env)

    def run(*first_on_path):
        its_own = dict(env, PYTHONPATH=os.pathsep.join([*map(str, first_on_path), path]))
        done = server.run(['-m', 'mmvssd.doctor'], os.getcwd(), its_own, 240)
        return done.returncode, done.stdout

    return run


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ALL, reason='a host is not installed')
def test_a_whole_installation(run_doctor):
    status, text = run_doctor()
    assert status == 0, text
    assert 'PROBLEM' not in text
    for subject in (*versions.RANGES, 'mmengine Runner', 'mmcv ops', 'GPU', 'Triton',
                    *(f'{host} + mmvssd' for host in doctor.HOSTS),
                    *(f'{op} (reference, cpu)' for op in dispatch.ops())):
        assert subject in text
    assert text.count('imports, finds mmvssd.VSSD, mmvssd.VMamba') == 3
    assert text.splitlines()[-1] == 'All that is needed works.'


@pytest.mark.slow
def test_a_broken_and_an_absent_host(run_doctor, tmp_path):
    """One line for each, and the rest is still tried."""
    for host, statement in dict(mmdet='raise RuntimeError("broken [on] purpose")',
                                mmseg='raise ModuleNotFoundError("No module named mmseg")').items():
        (tmp_path / host).mkdir()
        (tmp_path / host / '__init__.py').write_text(statement)
    status, text = run_doctor(tmp_path)
    assert status == 1, text
    problems = [line for line in text.splitlines() if line.startswith('PROBLEM')]
    assert any(line.startswith('PROBLEM mmdet') for line in problems)
    assert any(line.startswith('PROBLEM mmseg') for line in problems)
    assert all(doctor.INSTALL in line for line in problems)
    assert 'RuntimeError: broken [on] purpose' in text
    assert 'mmpretrain + mmvssd' in text
    assert 'nc_ssd (reference, cpu)' in text


@pytest.fixture
def quick(monkeypatch):
    """A doctor that does not try the hosts, which takes long, nor the ops."""
    monkeypatch.setattr(doctor, 'check_hosts', list)
    monkeypatch.setattr(doctor, 'check_mmcv_ops', lambda everything: [])
    monkeypatch.setattr(doctor, 'check_ops', list)
    return monkeypatch


def test_status_is_one_for_any_problem(quick, capsys):
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'All that is needed works.'
    quick.setattr(doctor, 'check_ops',
                  lambda: [doctor.Finding('an op', False, 'wrong', 'do that')])
    assert doctor.main([]) == 1
    *_, problem, verdict = capsys.readouterr().out.splitlines()
    assert problem == 'PROBLEM an op: do that'
    assert verdict.startswith('To mend: an op, as the lines above say.')
    assert doctor.INSTALL in verdict


def test_an_option_that_there_is_not(quick, capsys):
    with pytest.raises(SystemExit) as end:
        doctor.main(['--everything'])
    assert end.value.code == 2
    assert '--all' in capsys.readouterr().err


def test_versions(quick, capsys):
    quick.setattr(versions, 'installed', dict(torch='2.13.0', mmengine='0.10.7', mmcv='2.2.0').get)
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert 'PROBLEM mmcv: mmcv 2.2.0 is installed, but mmvssd needs' in text
    assert "pip install 'mmcv>=2.0.0,<2.2.0'" in text
    # What is absent is a matter of the hosts' own rows.
    assert 'PROBLEM mmdet' not in text


def test_hosts_name_what_to_install(monkeypatch):
    """Nothing is there: each row says so, and none of them stops the others."""
    def nothing(name):
        raise ModuleNotFoundError(f'No module named {name!r}')

    monkeypatch.setattr(importlib, 'import_module', nothing)
    monkeypatch.setattr(versions, 'installed', lambda name: None)
    # the tests themselves raise, and a host has a package of that name
    monkeypatch.setattr(import_errors, 'distribution_of', lambda package: None)
    findings = doctor.check_hosts()
    assert [finding.works for finding in findings] == [False] * 5
    assert "pip install 'mmpretrain>=1.2.0,<1.3'" in findings[-1].remedy
    assert all(doctor.INSTALL in finding.remedy for finding in findings)
    (finding,) = doctor.check_ops()
    assert finding.works is False


def of_mmdet(monkeypatch, error):
    """The row of MMDetection, whose import raises."""
    def fail(name):
        raise error

    monkeypatch.setattr(versions, 'installed', dict(mmdet='3.3.0').get)
    monkeypatch.setattr(import_errors, 'distribution_of', lambda package: None)
    monkeypatch.setattr(importlib, 'import_module', fail)
    return doctor.check_hosts()[2]


def test_a_package_that_a_host_needs_is_missing(monkeypatch):
    finding = of_mmdet(monkeypatch, ModuleNotFoundError("No module named 'six'", name='six'))
    assert finding.seen == "ModuleNotFoundError: No module named 'six'"
    assert finding.remedy == f"the package six is missing: pip install 'six', or {doctor.INSTALL}"


def test_patches_that_are_left_out_come_first(monkeypatch):
    monkeypatch.setattr(doctor.compat, 'left_out', lambda: ['multimodal'])
    finding = of_mmdet(monkeypatch, TypeError('NoneType takes no arguments'))
    assert finding.remedy == ('unset MMVSSD_PATCHES, which leaves out patches that may be needed; '
                              'if that does not do: mmdet 3.3.0 does not work here (see the '
                              f'table): {doctor.INSTALL}')


def test_what_patches_have_to_say(monkeypatch):
    monkeypatch.setattr(doctor.compat, 'notices', lambda: dict(multimodal='left out'))
    monkeypatch.setattr(doctor, 'attempt_import', lambda *args: None)
    assert doctor.check_hosts()[-1] == doctor.Finding('patch multimodal', None, 'left out')


def test_who_serves_mmcvs_ops(monkeypatch):
    served = dict(nms='torchvision', softnms='mmvssd', roi_align='torchvision', knn=None)
    monkeypatch.setattr(mmcv_ops, 'providers', lambda device: served)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert doctor.check_mmcv_ops() == [
        doctor.Finding('torchvision (cpu)', None, 'nms, roi_align'),
        doctor.Finding('mmvssd (cpu)', None, 'softnms'),
        doctor.Finding('not available on this machine (cpu)', None,
                       'calling one raises: 1 in all, see --all'),
    ]
    assert doctor.check_mmcv_ops(everything=True)[-1] == doctor.Finding(
        'not available on this machine (cpu)', None, 'calling one raises: knn')
    monkeypatch.setattr(mmcv_ops, 'providers', lambda device: dict(nms='mmcv (compiled)'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert [finding.subject for finding in doctor.check_mmcv_ops()] == [
        'mmcv (compiled) (cpu)', 'mmcv (compiled) (cuda)']


@pytest.mark.parametrize('absent', FAMILIES.values(), ids=FAMILIES)
def test_a_host_whose_registry_does_not_find_a_backbone(monkeypatch, absent):
    class Registry:
        MODELS = {family.type: family.backbone for family in FAMILIES.values()
                  if family is not absent}

    import_module = importlib.import_module
    monkeypatch.setattr(importlib, 'import_module', lambda name: (
        Registry if name.partition('.')[0] in doctor.HOSTS else import_module(name)))
    finding = doctor.check_hosts()[2]
    assert finding.works is False
    assert f'does not find {absent.type!r}' in finding.seen


def test_mmcv_whose_nms_is_wrong(monkeypatch):
    class Ops:
        @staticmethod
        def nms(boxes, scores, threshold):
            return boxes, torch.tensor([0, 1])

    monkeypatch.setattr(importlib, 'import_module', lambda name: Ops)
    finding = doctor.check_hosts()[1]
    assert finding.works is False
    assert 'keeps the boxes [0, 1]' in finding.seen


@pytest.fixture(scope='module')
def of_all_ops():
    """What the doctor finds of the ops, which takes seconds."""
    return doctor.check_ops()


@pytest.mark.parametrize('op', dispatch.ops())
def test_every_op_has_an_example_that_runs(op, of_all_ops):
    findings = [finding for finding in of_all_ops if finding.subject.startswith(f'{op} (')]
    assert len(findings) >= len(dispatch.names(op))
    assert all(finding.works is not False for finding in findings), findings
    assert any(finding.works for finding in findings)


def replaced(monkeypatch, name, run, obstacle=lambda *args, **kwargs: None):
    """What is found of nc_ssd with another implementation under a name."""
    registered = dict(dispatch._implementations['nc_ssd'])
    registered[name] = dispatch.Implementation(run, obstacle)
    monkeypatch.setitem(dispatch._implementations, 'nc_ssd', registered)
    monkeypatch.setattr(dispatch, 'ops', lambda: ('nc_ssd', ))
    return {finding.subject: finding for finding in doctor.check_ops()}


@pytest.mark.slow
def test_an_op_that_raises_or_is_wrong(monkeypatch):
    def raises(*args, **kwargs):
        raise RuntimeError('no such instruction')

    finding = replaced(monkeypatch, 'triton', raises)['nc_ssd (triton, cpu)']
    assert finding.works is False
    assert 'no such instruction' in finding.seen
    assert 'MMVSSD_KERNEL=reference' in finding.remedy
    reference = dispatch._implementations['nc_ssd']['reference'].run
    findings = replaced(monkeypatch, 'triton', lambda *a, **k: reference(*a, **k) + 1)
    assert findings['nc_ssd (triton, cpu)'].works is False
    assert findings['nc_ssd (reference, cpu)'].works is True


def test_an_op_that_cannot_run_here_is_no_problem(monkeypatch):
    findings = replaced(monkeypatch, 'triton', None, lambda *a, **k: 'it needs a GPU')
    finding = findings['nc_ssd (triton, cpu)']
    assert finding.works is None
    assert 'it needs a GPU' in finding.seen
