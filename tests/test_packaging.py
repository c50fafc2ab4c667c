"""The wheel and the editable installation, used by fresh processes from a foreign directory."""
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ('configs', 'kernels', 'mmvssd', 'requirements', 'tools')  # folders that a build reads
NOT_CARRIED = shutil.ignore_patterns('__pycache__', '*.py[cod]', '*.egg-info')
HOSTS = {'mmdet': 'mmdet', 'mmseg': 'mmsegmentation', 'mmpretrain': 'mmpretrain'}


def run(*command, cwd, **kwargs):
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(('PIP_', 'PYTHON'))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
    assert done.returncode == 0, done.stdout
    return done.stdout


def files_under(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts}


def copy_checkout(target):
    """Copy what a build reads, so that it cannot touch the checkout."""
    target.mkdir(parents=True)
    for name in CARRIED:
        shutil.copytree(ROOT / name, target / name, ignore=NOT_CARRIED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, target)
    return target


class CleanEnvironment:
    """A virtualenv that sees torch and the hosts of this one, but not its editable checkout.

    The path file names this environment's site-packages; Python does not process the path files
    that lie there in turn, and editable installations work through one of those.
    """

    def __init__(self, folder):
        run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder.parent)
        self.python = folder / 'bin' / 'python'
        self.elsewhere = folder.parent / 'elsewhere'
        self.elsewhere.mkdir()
        site = Path(run(self.python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))',
                        cwd=folder).strip())
        lent = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
        (site / 'lent.pth').write_text('\n'.join(sorted(lent)))
        assert 'None' in self('from importlib.util import find_spec; print(find_spec("mmvssd"))')

    def install(self, *what):
        run(self.python, '-m', 'pip', 'install', '--no-deps', '--no-index', '--ignore-installed',
            *what, cwd=self.elsewhere)

    def __call__(self, code, *arguments):
        """Run code from a foreign directory and return what it prints."""
        return run(self.python, '-c', code, *arguments, cwd=self.elsewhere)


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """A copy of the checkout in which a wheel was built, what the build left there, the wheel."""
    folder = tmp_path_factory.mktemp('build with spaces')
    checkout = copy_checkout(folder / 'check out')
    before = files_under(checkout)
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index', '--no-build-isolation',
        '--wheel-dir', folder, checkout, cwd=folder)
    wheel, = folder.glob('mmvssd-*.whl')
    return checkout, files_under(checkout) - before, wheel


def install(kind, build, folder):
    """Install the package as a wheel or editable; return the environment, and where it is from."""
    environment = CleanEnvironment(folder / 'environment')
    checkout, _, wheel = build
    if kind == 'wheel':
        environment.install(wheel)
        return environment, environment.python.parents[1]
    environment.install('--no-build-isolation', '--editable', checkout)
    return environment, checkout


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def installed(request, build, tmp_path_factory):
    """An environment with the package, and the folder that it must be imported from."""
    return install(request.param, build, tmp_path_factory.mktemp(request.param))


def test_wheel_carries_every_file(build):
    checkout, _, wheel = build
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    expected = {f'mmvssd/{name}' for name in files_under(checkout / 'mmvssd')}
    expected |= {f'mmvssd_kernels/{name}' for name in
                 files_under(checkout / 'kernels' / 'mmvssd_kernels')}
    expected |= {'mmvssd.pth', 'mmvssd_startup.py'}
    for folder in ('configs', 'tools'):
        expected |= {f'mmvssd/.mim/{folder}/{name}' for name in files_under(checkout / folder)}
    if (checkout / 'model-index.yml').exists():
        expected.add('mmvssd/.mim/model-index.yml')
    # these set up, test and document a checkout
    expected -= {f'mmvssd/.mim/tools/{name}.sh'
                 for name in ('setup', 'run_tests', 'quickstart', 'docs', 'benchmarks/gpu_check')}
    expected -= {f'mmvssd/.mim/tools/{name}'
                 for name in files_under(checkout / 'tools')
                 if name.startswith(('setup/', 'docs/')) or name == 'check_versions.py'}
    assert names == expected
    assert 'mmvssd/.mim/tools/train.py' in names


def test_build_leaves_no_copies(build):
    _, left, _ = build
    assert not {name for name in left if not name.startswith('mmvssd.egg-info/')}


def test_wheel_of_sdist_is_the_same(build, tmp_path):
    checkout, _, wheel = build
    run(sys.executable, '-c', 'from setuptools import build_meta; import sys;'
        'build_meta.build_sdist(sys.argv[1])', tmp_path, cwd=checkout)
    sdist, = tmp_path.glob('mmvssd-*.tar.gz')
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index', '--no-build-isolation',
        '--wheel-dir', tmp_path, sdist, cwd=tmp_path)
    rebuilt, = tmp_path.glob('mmvssd-*.whl')
    assert set(zipfile.ZipFile(rebuilt).namelist()) == set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_both_packages_are_imported_from_the_installation(installed):
    environment, origin = installed
    printed = environment('import mmvssd, mmvssd_kernels\n'
                          'from mmvssd.paths import configs_dir\n'
                          'for shown in (mmvssd.__file__, mmvssd_kernels.__file__, configs_dir(), '
                          'mmvssd.__version__):\n'
                          '    print(shown)')
    package, kernels, configs, number = printed.splitlines()[-4:]
    assert files_under(configs) == files_under(ROOT / 'configs')
    assert Path(configs).is_relative_to(origin)
    assert Path(package).is_relative_to(origin)
    assert Path(kernels).is_relative_to(origin)
    assert number == re.search(r"'(.+)'", (ROOT / 'mmvssd' / 'version.py').read_text()).group(1)


@pytest.mark.parametrize('kind', ['wheel', 'editable'])
def test_what_python_runs_as_it_starts_comes_and_goes(kind, build, tmp_path):
    """The file is there as pip lists it, works, and pip removes it."""
    environment, _ = install(kind, build, tmp_path)
    site = Path(environment('import sysconfig; print(sysconfig.get_path("purelib"))').strip())
    shipped = (ROOT / 'mmvssd.pth').read_bytes()
    assert (site / 'mmvssd.pth').read_bytes() == shipped
    digest = base64.urlsafe_b64encode(hashlib.sha256(shipped).digest()).decode().rstrip('=')
    record, = site.glob('mmvssd-*.dist-info/RECORD')
    assert record.read_text().count(f'mmvssd.pth,sha256={digest},{len(shipped)}\n') == 1
    ask = 'import mmengine, sys; print("mmvssd" in sys.modules)'
    assert environment(ask) == 'True\n'
    run(environment.python, '-m', 'pip', 'uninstall', '--yes', 'mmvssd', cwd=tmp_path)
    assert not (site / 'mmvssd.pth').exists()
    assert environment(ask) == 'False\n'


#: Prints where a host's registry finds the backbones, for each host in a fork: the other hosts are
#: not imported there, and what comes before a host is imported once, most of it other packages.
FIND = """
import importlib.util, inspect, os, sys
import mmvssd
from mmengine.registry import init_default_scope
for name in ('matplotlib.pyplot', 'scipy.stats', 'sklearn.manifold', 'torch.distributed.optim',
             'torchvision'):
    if importlib.util.find_spec(name.partition('.')[0]):
        importlib.import_module(name)
for host in sys.argv[1:]:
    if os.fork():
        _, status = os.wait()
        assert status == 0, host
        continue
    MODELS = __import__(host + '.registry', fromlist=['MODELS']).MODELS
    init_default_scope(host)
    print(host, *(inspect.getfile(MODELS.get(f'mmvssd.{name}')) for name in ('VSSD', 'VMamba')),
          sep='\\n', flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_backbones_are_found_from_each_host(installed):
    hosts = [host for host in HOSTS if find_spec(host)]
    if not hosts:
        pytest.skip('no host is installed')
    environment, origin = installed
    printed = environment(FIND, *hosts).splitlines()
    for host in hosts:
        place = printed.index(host)
        vssd, vmamba = printed[place + 1:place + 3]
        assert vssd != vmamba
        assert Path(vssd).is_relative_to(origin)
        assert Path(vmamba).is_relative_to(origin)


PYTHONS = ('3.10', '3.11', '3.12', '3.13')
THIS_PYTHON = '.'.join(map(str, sys.version_info[:2]))
#: Names in the pins of which an installation has one.
ALTERNATIVES = {'mmcv': 'mmcv-lite', 'opencv-python-headless': 'opencv-python'}


def requirements(*names):
    lines = [line.split('#')[0].strip() for name in names
             for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def pins(python=THIS_PYTHON):
    """What a Python is held to: name -> the one version."""
    held = [pin for pin in requirements('pytorch', 'constraints')
            if pin.marker is None or pin.marker.evaluate({'python_version': python})]
    assert len({pin.name for pin in held}) == len(held)
    for pin in held:
        exact, = pin.specifier
        assert exact.operator == '=='
        assert not set('+*') & set(exact.version), pin  # neither a local build nor a pattern
    return {pin.name: next(iter(pin.specifier)).version for pin in held}


@pytest.mark.parametrize('python', PYTHONS)
def test_constraints_pin_every_requirement_to_a_version_that_fits(python):
    pinned = pins(python)
    for requirement in requirements('runtime', 'hosts', 'optional', 'build'):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


@pytest.mark.parametrize('python', PYTHONS)
def test_alternatives_are_of_one_version(python):
    """Whichever of two that own an import name is installed, it is the same code."""
    for name, other in ALTERNATIVES.items():
        assert pins(python)[name] == pins(python)[other]


def dependencies(roots):
    """The names of what distributions need, and what that needs, as installed here.

    Of torch's own dependencies only the tested build's are installed here, which may be the CPU's.
    """
    found, waiting = set(), set(roots)
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            texts = requires(name) or ()
        except PackageNotFoundError:
            continue  # an alternative, or not for this Python
        needed = [Requirement(text) for text in texts]
        waiting |= {canonicalize_name(need.name) for need in needed
                    if need.marker is None or need.marker.evaluate({'extra': ''})} - found
    return {name for name in found if not name.startswith(('nvidia-', 'cuda-'))}


def test_both_ways_to_install_end_in_the_same_versions():
    """Resolved by pip with the constraints, or the whole list of them: nothing more, nothing less.

    Each dependency is pinned, so a resolution has no choice; each pin is a dependency.
    """
    for host in ('mmengine', *HOSTS.values()):
        try:
            version(host)
        except PackageNotFoundError:
            pytest.skip(f'{host} is not installed')
    asked = {requirement.name for requirement in
             requirements('runtime', 'hosts', 'optional', 'build')}
    needed = dependencies(asked)
    assert needed <= set(pins())
    assert set(pins()) <= needed | set(ALTERNATIVES)


def test_extras_differ_in_mmcv_only(build):
    """The wheel's metadata: `hosts` compiles nothing, `hosts-compiled` has the compiled mmcv."""
    metadata = zipfile.ZipFile(build[2])
    name, = [name for name in metadata.namelist() if name.endswith('.dist-info/METADATA')]
    lines = metadata.read(name).decode().split('\n\n')[0].splitlines()
    needs = [Requirement(line.split(': ')[1]) for line in lines
             if line.startswith('Requires-Dist')]

    def of(extra):
        return {(need.name, str(need.specifier)) for need in needs
                if need.marker and need.marker.evaluate({'extra': extra})}

    lite, compiled = of('hosts'), of('hosts-compiled')
    assert {name for name, _ in lite ^ compiled} == {'mmcv', 'mmcv-lite'}
    assert len({specifier for _, specifier in lite ^ compiled}) == 1
    assert 'Requires-Python: >=3.10' in lines
