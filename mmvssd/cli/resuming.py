"""What a run's predictions depend on, kept beside them so that another run may continue them."""
import hashlib
import json
from pathlib import Path
from typing import Dict

from mmengine.config import Config

from mmvssd.errors import ConfigError, DataError
from mmvssd.files import strict_json, write_whole
from mmvssd.phrases import short

#: The file's name, beside the JSON.
NAME = 'predictions.settings.json'


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with open(file, 'rb') as content:
        return hashlib.file_digest(content, 'sha256').hexdigest() if hasattr(
            hashlib, 'file_digest') else _digest_in_blocks(content)


def _digest_in_blocks(content) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := content.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def recipe_settings(cfg: Config, checkpoint: str) -> Dict[str, str]:
    """Return what the predictions of a recipe and a checkpoint depend on."""
    parts = repr((cfg.model.to_dict(), cfg.test_dataloader.to_dict()))
    return dict(recipe=str(cfg.filename), checkpoint=checkpoint,
                recipe_sha256=hashlib.sha256(parts.encode(errors='replace')).hexdigest(),
                checkpoint_sha256=file_digest(Path(checkpoint)))


def model_settings(model: str) -> Dict[str, str]:
    """Return what the predictions of an exported file depend on, its weights' file included."""
    file = Path(model)
    parts = (file, file.with_suffix('.bin'), file.with_name(f'{file.name}.data'))
    digests = ' '.join(file_digest(part) for part in parts if part.is_file())
    return dict(model=model, model_sha256=digests)


def write_settings(folder: Path, settings: Dict[str, object]) -> None:
    """Write the settings of a run beside its predictions."""
    write_whole(folder / NAME, strict_json(settings, indent=1) + '\n')


def check_settings(folder: Path, settings: Dict[str, object]) -> None:
    """Raise ConfigError unless the predictions in a folder were made with these settings.

    Files may have other names if their content is the same.

    Raises:
        ConfigError: A setting is another one.
        DataError: What settings they were made with is not known.
    """
    file = folder / NAME
    try:
        former = json.loads(file.read_text())
        if not isinstance(former, dict):
            raise ValueError('holds no settings')
    except (OSError, ValueError) as error:
        raise DataError(f'--resume: {file}: cannot be read ({error}), so that it is not known how '
                        'the predictions beside it were made; name another --out-dir') from error
    for name in {**former, **settings}:
        if name not in ('recipe', 'checkpoint', 'model') and (
                former.get(name) != settings.get(name)):
            what = name.removesuffix('_sha256').replace('_', '-')
            told = '' if name.endswith('_sha256') else (
                f' ({short(former.get(name))}, now {short(settings.get(name))})')
            raise ConfigError(f'--resume: the predictions in {folder} were made with another '
                              f'{what}{told}; give the same, or name another --out-dir')
