"""Training curves for TensorBoard."""
import logging
from typing import Optional

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization import TensorboardVisBackend as HostTensorboardVisBackend

from mmvssd.registry import VISBACKENDS


@VISBACKENDS.register_module()
class TensorboardVisBackend(HostTensorboardVisBackend):
    """MMEngine's backend, without a file if there is no curve, or no TensorBoard.

    MMEngine's writes the config into an event file as soon as a Runner is built, so each test
    leaves one without a curve. If TensorBoard is not installed, no Runner can be built. Here the
    config goes in before the first number or picture, and a missing TensorBoard is logged once.

    Args:
        save_dir: Folder of the event file.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir)
        self._config: Optional[Config] = None
        self._is_missing = False

    def _init_env(self) -> None:
        self._env_initialized = True  # at the first try, whatever comes of it
        try:
            super()._init_env()
        except ImportError as error:
            self._is_missing = True
            reason = error.__context__ or error  # what PyTorch could not import
            print_log(f'TensorBoard cannot be used ({reason}): no event file is written. Either '
                      'pip install tensorboard, or draw the curves with '
                      'tools/analysis_tools/plot_curves.py, which does without',
                      logger='current', level=logging.WARNING)
            return
        if self._config is not None:
            super().add_config(self._config)

    def add_config(self, config: Config, **kwargs) -> None:
        """Keep the config until there is a file."""
        self._config = config

    def add_image(self, *args, **kwargs) -> None:
        """Record a picture, as MMEngine's does."""
        if self._is_there():
            super().add_image(*args, **kwargs)

    def add_scalar(self, *args, **kwargs) -> None:
        """Record a number, as MMEngine's does."""
        if self._is_there():
            super().add_scalar(*args, **kwargs)

    def _is_there(self) -> bool:
        """Open the event file if that has not been done; whether there is one."""
        if not self._env_initialized:
            self._init_env()
        return not self._is_missing
