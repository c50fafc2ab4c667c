"""What stock OpenMMLab needs on today's PyTorch, one file a problem.

Each file has an ``apply()`` that may run twice, asks no device anything, imports none of the
hosts, and changes nothing where its problem is absent.
"""
from mmvssd.compat import versions


def apply_all() -> None:
    """Apply every patch; ``import mmvssd`` calls this.

    Raises:
        ImportError: if the installed PyTorch or MMEngine does not fit (see
            :data:`mmvssd.compat.versions.RANGES`).
    """
    versions.apply()
    # Only now, for these import torch and mmengine, whose versions had to be judged first.
    from mmvssd.compat import (
        amp,
        amp_ops,
        atomic_files,
        checkpoint,
        deprecations,
        distributed,
        failed_runs,
        mmcv_ops,
        torchvision_ops,
        unreadable_images,
    )
    for problem in (deprecations, torchvision_ops, mmcv_ops, checkpoint, atomic_files, distributed,
                    failed_runs, amp, amp_ops, unreadable_images):
        problem.apply()


__all__ = ['apply_all']
