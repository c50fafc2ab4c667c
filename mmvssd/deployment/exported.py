"""Exported files, read again: what runs them, and what they say of themselves."""
import importlib
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from mmvssd.deployment.onnx_models import OnnxModel, require
from mmvssd.errors import ConfigError
from mmvssd.paths import seen_from
from mmvssd.phrases import short

#: Entry of an exported program, and of OpenVINO's run-time information, that holds the metadata.
METADATA = 'mmvssd.json'
#: What every file says of itself, and the types of it.
FACTS: Dict[str, Any] = {
    'mmvssd_version': str, 'task': str, 'result': str, 'classes': (list, type(None)),
    'preprocessing': dict, 'pipeline': (list, type(None))}


class Exported(NamedTuple):
    """A file of ``tools/deployment/export.py`` in its runtime, on the CPU.

    Attributes:
        run: Takes images (N, C, H, W), gives all results.
        outputs: Their names.
        facts: What the file says of itself, by :data:`FACTS` and more.
    """

    run: Callable[[np.ndarray], Sequence[np.ndarray]]
    outputs: Sequence[str]
    facts: Dict[str, Any]


def open_exported(file: str, option: str = '--model: ') -> Exported:
    """Load an exported file.

    Args:
        file: The file.
        option: What errors begin with: the option that named it.

    Raises:
        ConfigError: There is no such file, it is none of ``tools/deployment/export.py``, or its
            runtime is not installed.
    """
    path = Path(file)
    if path.suffix not in RUNTIMES:
        raise ConfigError(f'{option}got {file}, expected a file that ends with '
                          f'{" or ".join(RUNTIMES)}')
    if not path.is_file():
        raise ConfigError(f'{option}{file}: no such file{seen_from(file)}')
    package, load = RUNTIMES[path.suffix]
    require(package)
    try:
        run, outputs, metadata = load(path)
    except Exception as error:  # each runtime has errors of its own for what it cannot read
        reason = (str(error).strip() or 'no message').splitlines()[0]
        raise ConfigError(f'{option}{file}: {package} cannot read it ({reason})') from error
    return Exported(run, outputs, _facts(f'{option}{file}', metadata))


def _facts(file: str, metadata: Dict[str, str]) -> Dict[str, Any]:
    missing = [name for name in FACTS if name not in metadata]
    if missing:
        raise ConfigError(f'{file}: says nothing of {", ".join(missing)}; is it a file of '
                          'tools/deployment/export.py?')
    facts = {name: text if FACTS.get(name) is str else _value(text)
             for name, text in metadata.items()}
    for name, kind in FACTS.items():
        if not isinstance(facts[name], kind):
            raise ConfigError(f'{file}: its {name} is {short(facts[name])}, which no file '
                              'of tools/deployment/export.py has; export it again')
    return facts


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a text
        return text


def _load_onnx(file: Path) -> Tuple[Callable, List[str], Dict[str, str]]:
    model = OnnxModel(file)
    outputs = [output.name for output in model.session.get_outputs()]
    return model, outputs, model.session.get_modelmeta().custom_metadata_map


def _load_openvino(file: Path) -> Tuple[Callable, List[str], Dict[str, str]]:
    openvino = importlib.import_module('openvino')
    model = openvino.Core().read_model(file)
    said = model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else '{}'
    outputs = [output.get_any_name() for output in model.outputs]
    return open_openvino(model), outputs, json.loads(said)


def open_openvino(model: Any) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """Return a function of images that runs a model of OpenVINO, or a file of one, in float32."""
    openvino = importlib.import_module('openvino')
    # some CPUs would compute in bfloat16
    run = openvino.Core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda images: list(run(images).values())


#: The package that runs a file, and what loads it there, by the file's ending.
RUNTIMES = {'.onnx': ('onnxruntime', _load_onnx), '.xml': ('openvino', _load_openvino)}
