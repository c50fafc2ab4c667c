"""Settings of an architecture, by name or as a dict."""
from dataclasses import MISSING, dataclass, fields
from typing import Mapping, Sequence, Tuple, Type, TypeVar, Union


@dataclass(frozen=True)
class Arch:
    """Settings that every hierarchical architecture has; families add their own.

    A family's settings also have ``stem``, ``downsample`` (names of
    :data:`~mmvssd.models.layers.STEMS` and :data:`~mmvssd.models.layers.DOWNSAMPLES`) and
    ``drop_path_rate``, that of the last block if the backbone names none.

    Attributes:
        embed_dims: Width C of stage 0; stage i is ``C * 2**i`` wide.
        depths: Blocks of each stage.
    """

    embed_dims: int
    depths: Sequence[int]

    @property
    def dims(self) -> Tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.embed_dims * 2**i for i in range(len(self.depths)))


A = TypeVar('A', bound=Arch)


def check_name(what: str, name: str, known: Sequence[str]) -> None:
    """Raise ValueError unless ``name`` is one of ``known``."""
    if name not in known:
        raise ValueError(f'{what}: unknown name {name!r}; known: {", ".join(known)}')


def resolve_arch(arch: Union[str, dict], archs: Mapping[str, A], kind: Type[A]) -> A:
    """Turn a name of ``archs`` or a dict into settings; ValueError if it is neither."""
    if isinstance(arch, str):
        check_name('arch', arch, archs)
        return archs[arch]
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(arch) - set(known))
    missing = [field.name for field in fields(kind)
               if field.default is MISSING and field.name not in arch]
    if unknown or missing:
        raise ValueError(f'arch: unknown keys {unknown}, missing keys {missing}; '
                         f'known: {", ".join(known)}')
    return kind(**arch)
