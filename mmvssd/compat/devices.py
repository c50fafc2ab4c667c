"""What patches for the CPU say of a machine that has an accelerator."""
from typing import Optional

from mmengine.device import get_device


def accelerator() -> Optional[str]:
    """Return that MMEngine runs on an accelerator, by name; None on the CPU."""
    device = get_device()
    return None if device == 'cpu' else f'MMEngine runs on {device}'
