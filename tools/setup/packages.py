"""Decide what to install, by exact version."""
import ctypes
import re

from environments import OLDEST_PYTHON, REQUIREMENTS, leading_numbers

PYTORCH = ('torch', 'torchvision', 'triton')
OPENCV = ('opencv-python', 'opencv-python-headless')
#: What opencv-python links to and a machine without a display may lack.
DISPLAY_LIBRARIES = ('libGL.so.1', 'libgthread-2.0.so.0')


def read_pins(python):
    """Read the tested versions for a Python such as (3, 11): distribution -> version."""
    pins = {}
    text = ''.join((REQUIREMENTS / name).read_text() for name in ('pytorch.txt', 'constraints.txt'))
    for name, version, operator, bound in re.findall(
            r'^([\w.-]+)==([^\s;]+)(?:; python_version (<|>=) "([\d.]+)")?', text, re.MULTILINE):
        if not bound or (operator == '<') == (tuple(python) < leading_numbers(bound)):
            pins[name] = version
    return pins


def has_display_libraries():
    try:
        for name in DISPLAY_LIBRARIES:
            ctypes.CDLL(name)
    except OSError:
        return False
    return True


def choose_opencv(seen):
    """Return the distribution to bring cv2, the installed one first; None if another brings it.

    opencv-python is what the hosts ask for by name. It does not import without a few libraries of
    a display, which servers and containers may lack; opencv-python-headless does.
    """
    for name in OPENCV:
        if name in seen['versions']:
            return name
    if 'cv2' in seen['origins']:
        return None
    return OPENCV[0] if has_display_libraries() else OPENCV[1]


def keep_pytorch(pins, versions):
    """Return the pins with an adopted environment's PyTorch in place of the tested one."""
    pins = {name: version for name, version in pins.items() if name not in PYTORCH}
    return {**pins, **{name: versions[name] for name in PYTORCH if name in versions}}


def plan(environment, seen, *, compiled):
    """Return what pip is held to, and what it installs without dependencies, by exact version.

    Args:
        compiled (bool): the environment has or gets mmcv with its compiled ops.

    Returns:
        tuple[dict, dict]: distribution -> version, of the constraints and of the installation.
    """
    pins = read_pins(seen['python'])
    versions = seen['versions']
    tested_torch = pins['torch']
    if environment.adopted:
        tested_triton = pins['triton']
        pins = keep_pytorch(pins, versions)
        # each PyTorch works with one release of Triton
        if 'triton' not in versions and has_torch(versions, tested_torch):
            pins['triton'] = tested_triton
    if leading_numbers(pins.get('triton', '3.7')) < (3, 7):
        # Triton's interpreter stops at NumPy 2.4 before that, and the tests run in it
        pins['numpy'] = read_pins(OLDEST_PYTHON)['numpy']
    left_out = {'torch', 'torchvision', 'mmcv', 'ninja', *OPENCV}
    left_out -= {choose_opencv(seen)}
    if compiled:
        left_out.add('mmcv-lite')
    return pins, {name: pins[name] for name in pins if name not in left_out}


def has_torch(versions, wanted):
    """Return whether PyTorch is there in a version, in whichever build."""
    return versions.get('torch', '').split('+')[0] == wanted.split('+')[0]


def torchvision_for(torch):
    """Return what pip needs to find the torchvision for a PyTorch without trying them all."""
    major, minor = leading_numbers(torch)
    return f'torchvision==0.{15 + minor}.*' if major == 2 else 'torchvision'


def keeps_compiled_mmcv(environment, seen):
    """Return whether an mmcv is there that the hosts take, with compiled ops that load."""
    version = seen['versions'].get('mmcv')
    return (version is not None and (2, 0) <= leading_numbers(version) < (2, 2)
            # a file: mmvssd puts a module without one in the place of missing ops
            and environment.runs('import torch, mmcv._ext; mmcv._ext.__file__'))


def write_pins(file, pins):
    file.write_text(''.join(f'{name}=={version}\n' for name, version in pins.items()))
    return file
