"""Settings of an architecture, by name or as a dict."""
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Mapping, Sequence, Tuple, Type, TypeVar, Union

from mmvssd.models.arguments import (
    check_integer,
    check_keys,
    check_name,
    check_number,
    check_sequence,
)

#: What the published codes call some of the settings.
OTHER_NAMES = {
    'dims': 'embed_dims', 'embed_dim': 'embed_dims', 'ssm_d_state': 'd_state', 'ssm_conv': 'conv',
    'ssm_conv_bias': 'conv_bias', 'forward_type': 'version', 'patchembed_version': 'stem',
    'downsample_version': 'downsample',
}


@dataclass(frozen=True)
class Arch:
    """Settings that every hierarchical architecture has; families add their own.

    A family's settings also have ``stem``, ``downsample`` (names of
    :data:`~mmvssd.models.layers.STEMS` and :data:`~mmvssd.models.layers.DOWNSAMPLES`) and
    ``drop_path_rate``, that of the last block if the backbone names none.

    Attributes:
        embed_dims: Width C of stage 0; stage i is ``C * 2**i`` wide. At least 2, since stems halve
            it.
        depths: Blocks of each stage; one may have none.

    Raises:
        ValueError: A value of another type, or out of range.
    """

    embed_dims: int
    depths: Sequence[int]

    if TYPE_CHECKING:  # fields of each family; fields here would come before its own
        @property
        def stem(self) -> str: ...
        @property
        def downsample(self) -> str: ...
        @property
        def drop_path_rate(self) -> float: ...

    def __post_init__(self) -> None:
        self.settle('embed_dims', check_integer('arch: embed_dims', self.embed_dims, 2))
        depths = check_sequence('arch: depths', self.depths, of='the blocks of each stage')
        self.settle('depths', tuple(check_integer(f'arch: depths of stage {i}', depth, 0)
                                    for i, depth in enumerate(depths)))
        self.settle('drop_path_rate', check_drop_path_rate('arch: drop_path_rate',
                                                           self.drop_path_rate))

    def settle(self, name: str, value: Any) -> None:
        """Set a field to its checked value; for ``__post_init__``, as instances are frozen."""
        object.__setattr__(self, name, value)

    @property
    def dims(self) -> Tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.embed_dims * 2**i for i in range(len(self.depths)))


A = TypeVar('A', bound=Arch)


def check_drop_path_rate(what: str, rate: Any) -> float:
    """Return a rate; ValueError unless it is a number from 0 to below 1."""
    return check_number(what, rate, f'0 <= {what.rpartition(" ")[2]} < 1', least=0, below=1)


def check_mlp_ratio(ratio: Any, width: int) -> Union[int, float]:
    """Return hidden over outer width of an MLP; ValueError unless it is 0 or gives a width."""
    ratio = check_number('arch: mlp_ratio', ratio, '0 for no MLP, or a number above', least=0)
    if 0 < ratio * width < 1:
        raise ValueError(f'arch: mlp_ratio: got {ratio}, expected a hidden width mlp_ratio * '
                         f'{width} of 1 or more, or 0 for no MLP')
    return ratio


def resolve_arch(arch: Union[str, dict], archs: Mapping[str, A], kind: Type[A]) -> A:
    """Turn a name of ``archs`` or a dict into settings; ValueError if it is neither."""
    if isinstance(arch, str):
        return archs[check_name('arch', arch, archs)]
    known = fields(kind)
    needed = [field.name for field in known if field.default is MISSING]
    if not isinstance(arch, Mapping):
        raise ValueError(f'arch: got {arch!r}, expected a name ({", ".join(archs)}), or a dict '
                         f'with {", ".join(needed)} and more')
    check_keys('arch', arch, [field.name for field in known], needed, OTHER_NAMES)
    return kind(**arch)
