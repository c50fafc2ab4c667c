"""MMEngine's early stopping, for runs that may be stopped anywhere and go on as if they had not."""
from mmengine.hooks import EarlyStoppingHook

from mmvssd.host_internals import is_resuming
from mmvssd.registry import HOOKS

_ENTRY = 'early_stopping'


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """MMEngine's EarlyStoppingHook, whose count of evaluations without progress is kept.

    A checkpoint's ``meta`` holds the count and the best score, by the metric that is watched.
    Arguments are MMEngine's.
    """

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Write the count down."""
        kept = checkpoint['meta'].setdefault(_ENTRY, {})
        kept[self.monitor] = dict(wait_count=self.wait_count, best_score=float(self.best_score))

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Go on with the count of the run that is resumed."""
        kept = (checkpoint.get('meta') or {}).get(_ENTRY, {}).get(self.monitor)
        if kept and is_resuming(runner):
            self.wait_count, self.best_score = kept['wait_count'], kept['best_score']
