"""MMPreTrain beside a transformers that its language models were not written for.

MMPreTrain imports its models of images and text if transformers 4.28 or later is installed. They
need names that transformers 4.52 and later no longer have where they are looked for. Then
``import mmpretrain.models`` stops at «NoneType takes no arguments», and MMDetection, which imports
it, stops too. Here MMPreTrain takes these models for not installed, which it knows how to do, and
everything else works.

Fix: retire when MMPreTrain's language models import beside the newest transformers.
"""
import importlib
import logging
from typing import Optional

from mmpretrain.utils import dependency

from mmvssd.compat.patching import wrap_once
from mmvssd.import_errors import first_line, root_of, with_version
from mmvssd.processes import is_first

#: Module of transformers -> what MMPreTrain's language models and tokenizers import from it.
NEEDED = {
    'transformers': ('AutoConfig', 'AutoTokenizer', 'BartTokenizer', 'BasicTokenizer',
                     'BertTokenizer', 'BertTokenizerFast', 'LlamaTokenizer', 'PreTrainedModel',
                     'WordpieceTokenizer'),
    'transformers.activations': ('ACT2FN', ),
    'transformers.modeling_outputs': (
        'BaseModelOutputWithPast', 'BaseModelOutputWithPastAndCrossAttentions',
        'BaseModelOutputWithPoolingAndCrossAttentions', 'CausalLMOutputWithCrossAttentions',
        'CausalLMOutputWithPast', 'ModelOutput', 'Seq2SeqLMOutput'),
    'transformers.modeling_utils': (
        'GenerationConfig', 'GenerationMixin', 'PreTrainedModel', 'PretrainedConfig',
        'apply_chunking_to_forward', 'find_pruneable_heads_and_indices', 'prune_linear_layer'),
    'transformers.models.auto.auto_factory': ('_BaseAutoModelClass', ),
    'transformers.models.bert.configuration_bert': ('BertConfig', ),
    'transformers.models.opt.configuration_opt': ('OPTConfig', ),
    'transformers.utils': ('add_code_sample_docstrings', 'add_start_docstrings',
                           'add_start_docstrings_to_model_forward', 'logging',
                           'replace_return_docstrings'),
}

#: What brings a version that has all of it.
REMEDY = "pip install 'transformers>=4.28,<4.52'"

_reason = ''


def apply() -> None:
    """Have MMPreTrain leave the models out if this transformers lacks what they need."""
    global _reason
    lack = dependency.WITH_MULTIMODAL and _lack()
    if not lack:
        return
    dependency.WITH_MULTIMODAL = False
    _reason = f'{with_version("transformers")} {lack}; for them: {REMEDY}'
    wrap_once(dependency, 'register_multimodal_placeholder', _register_placeholders)
    if is_first():
        logging.getLogger('mmvssd').warning(notice())


def idle() -> Optional[str]:
    """Return that these models are as MMPreTrain has them, or None."""
    return None if _reason else "MMPreTrain's models of images and text need no help"


def notice() -> Optional[str]:
    """Return why these models are left out, or None."""
    return (f"MMPreTrain's models of images and text are left out, and everything else works: "
            f'{_reason}') if _reason else None


def _lack() -> Optional[str]:
    """Return the first thing that this transformers lacks, or None."""
    for name, attributes in NEEDED.items():
        try:
            module = importlib.import_module(name)
            missing = [attribute for attribute in attributes if not hasattr(module, attribute)]
        except Exception as error:  # whatever is wrong with transformers
            return f'does not import {name} ({first_line(root_of(error))})'
        if missing:
            return f'has no {name}.{missing[0]}'
    return None


def _register_placeholders(original, names, registry):
    """Register what raises as such a model is built; the original blames a missing package."""
    for name in names:
        registry.register_module(name=name, module=_placeholder(name))


def _placeholder(name: str):
    def ask_for_another_transformers(*args, **kwargs):
        raise ImportError(f'{name} is left out here: {_reason}')

    return ask_for_another_transformers
