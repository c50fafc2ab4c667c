"""What the tests of numbers that are not finite share."""
import importlib.util
import sys
from pathlib import Path

import pytest

# the tests, and torch.compile, import it by this name
_spec = importlib.util.spec_from_file_location('toy_training',
                                               Path(__file__).with_name('toy_training.py'))
sys.modules['toy_training'] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules['toy_training'])


@pytest.fixture
def said(monkeypatch):
    """What the hook logs, one entry a message."""
    messages = []
    monkeypatch.setattr('mmvssd.engine.numerics.finite_check.print_log',
                        lambda text, logger, level: messages.append(text))
    return messages
