"""Metadata and packages; how the package is built, linted and tested is in pyproject.toml."""
import base64
import hashlib
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
# Building outside the checkout leaves no copies in it, and packs no leftovers of a former build.
BUILD_DIR = tempfile.TemporaryDirectory(prefix='mmvssd-build-')

# They set up, test and document a checkout.
CHECKOUT_ONLY = ('setup', 'setup.sh', 'check_versions.py', 'run_tests.sh', 'quickstart.sh',
                 'gpu_check.sh', 'docs', 'docs.sh')


def read_version():
    text = (ROOT / 'mmvssd' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", text).group(1)


def read_requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in (line.split('#')[0].strip() for line in lines) if line]


# Python runs this file as it starts; see mmvssd_startup.py.
STARTUP = ROOT / 'mmvssd.pth'


class EditableWheelWithStartup(editable_wheel):
    """Adds the file that Python runs as it starts; setuptools leaves such files out here."""

    def run(self):
        super().run()
        wheel, = Path(self.dist_dir).glob('mmvssd-*.whl')
        add_to_wheel(wheel, STARTUP)


def add_to_wheel(wheel, file):
    """Add a file to a wheel's top folder, and to the list of what pip uninstalls."""
    content = file.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()
    with zipfile.ZipFile(wheel) as old:
        entries = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(wheel, 'w') as new:
        new.writestr(file.name, content)
        for info, entry in entries:
            if info.filename.endswith('.dist-info/RECORD'):
                entry = f'{file.name},sha256={digest},{len(content)}\n'.encode() + entry
            new.writestr(info, entry)


class BuildPyWithMim(build_py):
    """Puts recipes and tools into `mmvssd/.mim`, where OpenMMLab's package manager looks."""

    def run(self):
        super().run()
        if self.editable_mode:  # the checkout has them
            return
        shutil.copy2(STARTUP, self.build_lib)
        mim_dir = Path(self.build_lib, 'mmvssd', '.mim')
        for name in ('configs', 'tools'):
            shutil.copytree(ROOT / name, mim_dir / name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]',
                                                          *CHECKOUT_ONLY))
        if (ROOT / 'model-index.yml').exists():
            shutil.copy2(ROOT / 'model-index.yml', mim_dir)


HOSTS = read_requirements('hosts')

setup(
    name='mmvssd',
    version=read_version(),
    description='VSSD and VMamba backbones for MMDetection, MMSegmentation and MMPreTrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmvssd', 'mmvssd.*']) + find_packages('kernels'),
    package_dir={'mmvssd_kernels': 'kernels/mmvssd_kernels'},
    package_data={'mmvssd': ['py.typed'], 'mmvssd_kernels': ['py.typed'],
                  'mmvssd.reports': ['templates/*.html']},
    py_modules=['mmvssd_startup'],
    install_requires=read_requirements('runtime'),
    extras_require={
        'hosts': HOSTS,
        # mmcv and mmcv-lite share one import name and their releases
        'hosts-compiled': [line.replace('mmcv-lite', 'mmcv') for line in HOSTS],
        'optional': read_requirements('optional'),
    },
    cmdclass={'build_py': BuildPyWithMim, 'editable_wheel': EditableWheelWithStartup},
    options={'build': {'build_base': BUILD_DIR.name}},
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
