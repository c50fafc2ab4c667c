"""One warning of MMEngine's is silenced."""
import os
import subprocess
import sys

SCRIPT = """
import sys, warnings
if {compat}:
    import mmvssd
    import mmengine
warnings.warn('pkg_resources is deprecated as an API. See https://example.org', UserWarning)
warnings.warn('something else', UserWarning)
"""


def output(compat):
    env = {} if compat else {'MMVSSD_PATCHES': 'off'}
    done = subprocess.run([sys.executable, '-c', SCRIPT.format(compat=compat)], text=True,
                          env={**os.environ, **env}, capture_output=True, check=True)
    return done.stderr


def test_this_message_alone_is_silenced():
    assert 'pkg_resources' in output(compat=False)
    assert 'pkg_resources is deprecated' not in output(compat=True)
    assert 'something else' in output(compat=True)
