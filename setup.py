"""Metadata and packages; how the package is built, linted and tested is in pyproject.toml."""
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Building outside the checkout leaves no copies in it, and packs no leftovers of a former build.
BUILD_DIR = tempfile.TemporaryDirectory(prefix='mmvssd-build-')

# They set up and test a checkout.
CHECKOUT_ONLY = ('setup.sh', 'setup_environment.py', 'compile_mmcv.py', 'check_versions.py',
                 'run_tests.sh', 'quickstart.sh', 'gpu_check.sh')


def read_version():
    text = (ROOT / 'mmvssd' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", text).group(1)


def read_requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in (line.split('#')[0].strip() for line in lines) if line]


class BuildPyWithMim(build_py):
    """Puts recipes and tools into `mmvssd/.mim`, where OpenMMLab's package manager looks."""

    def run(self):
        super().run()
        if self.editable_mode:  # the checkout has them
            return
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
    install_requires=read_requirements('runtime'),
    extras_require={
        'hosts': HOSTS,
        # mmcv and mmcv-lite share one import name and their releases
        'hosts-compiled': [line.replace('mmcv-lite', 'mmcv') for line in HOSTS],
        'optional': read_requirements('optional'),
    },
    cmdclass={'build_py': BuildPyWithMim},
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
