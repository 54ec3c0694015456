"""Specs such as ``pkg.mod:Factory`` or ``timm:resnet18``, and the models behind them."""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import InitcheckError, SettingsError, TargetError
from ..settings import BY_NAME
from ..words import named_error
from .shapes import parse_shapes

if TYPE_CHECKING:
    from torch import nn

    #: What :func:`load` returns: a copy of a module, or a function that builds one.
    Loaded = nn.Module | Callable[[], nn.Module]

_SPEC = re.compile(r"(?P<where>.+?):(?P<name>[^:()=]+)(?P<arguments>\(.*\))?", re.DOTALL)
_EXPECTED = "pkg.mod:Factory, path/file.py:Factory, timm:NAME, torchvision:NAME or hf:NAME"


@dataclass(frozen=True, slots=True)
class Target:
    """One model that configuration or a command line asks for.

    Attributes:
        spec: the model: ``pkg.mod:Factory``, ``path/file.py:Factory``, ``timm:NAME``, ``torchvision:NAME`` or
            ``hf:NAME``, each optionally with literal arguments: ``timm:resnet18(num_classes=10)``.
        inputs: shape string, or ``None`` to have the inputs inferred.
        settings: further settings, name -> text as given (a list where it was given several times).
    """

    spec: str
    inputs: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The spec and, in brackets, everything else that was asked for."""
        extras = [] if self.inputs is None else [f"input={self.inputs}"]
        for name, value in self.settings.items():
            extras += [f"{name}={v}" for v in (value if isinstance(value, list) else [value])]
        return f"{self.spec}[{','.join(extras)}]" if extras else self.spec


def parse_target(line: str) -> Target:
    """Return the target that a line such as ``timm:resnet18 input=2x3x64x64 seed=1`` asks for.

    Tokens are split as a shell does it, so a value with spaces goes in quotes. Nothing is imported.

    Raises:
        TargetError: the line is no spec followed by ``name=value`` words, or a value cannot be used.
    """
    line = line.strip()
    try:
        words = shlex.split(line)
    except ValueError as e:
        raise TargetError(f"{line!r} cannot be split into words ({e}): close the quotes") from None
    if not words:
        raise TargetError(f"an empty line names no model: write {_EXPECTED}")
    spec, *rest = words
    _split(spec)
    inputs: list[str] = []
    settings: dict[str, Any] = {}
    for word in rest:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise TargetError(f"{line}: {word!r} must be name=value, such as input=2x3x32x32 or seed=1")
        if name == "input":
            inputs.append(value)
        elif name not in BY_NAME:
            raise TargetError(f"{line}: unknown setting {name!r} (known: input, {', '.join(BY_NAME)})")
        elif BY_NAME[name].repeat:
            settings.setdefault(name, []).append(value)
        elif name in settings:
            raise TargetError(f"{line}: {name} is given twice: give it once")
        else:
            settings[name] = value
    try:
        for name, value in settings.items():
            BY_NAME[name].parse(name, value)
        for shape in inputs:
            parse_shapes(shape)
        if inputs:
            parse_shapes("; ".join(inputs))  # together, because a keyword may be named once only
    except SettingsError as e:
        raise TargetError(f"{line}: {e}") from None
    return Target(spec, "; ".join(inputs) or None, settings)


def load(target: Target | str, *, root: Path | None = None) -> Loaded:
    """Return the model class or factory that a target names, ready to be called, or a copy of the module it names.

    Everything that goes wrong, also later in the call, is a :class:`TargetError` of one sentence.

    Args:
        target: a target or a bare spec.
        root: directory that relative paths and modules that are not installed are looked up in; the current
            directory if not given. It is on ``sys.path`` only while the module is imported and the model is built.

    Raises:
        TargetError: nothing can be imported from there, or what is there is no factory.
    """
    spec = target if isinstance(target, str) else target.spec
    where, name, arguments = _split(spec)
    root = (root or Path.cwd()).resolve()
    if where in _LIBRARIES:
        return _guarded(spec, _LIBRARIES[where](spec, name, arguments), root)
    with _importable_from(_search_path(where, root)):
        found = _attribute(spec, _import(spec, where, root), name)
    if _is_module(found):
        if arguments:
            raise TargetError(f"{spec}: {name} is a built model and takes no arguments: name its class or a factory")
        return copy.deepcopy(found)  # type: ignore[no-any-return]
    if not callable(found):
        raise TargetError(
            f"{spec}: {name} is {_a(type(found).__name__)}, expected a model class, a factory or an nn.Module"
        )
    _refuse_missing_arguments(spec, found, arguments)
    factory = functools.partial(found, **arguments) if arguments else found
    return _guarded(spec, factory, _search_path(where, root), wraps=found)


# -- the pieces of a spec


def _split(spec: str) -> tuple[str, str, dict[str, Any]]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise TargetError(f"{spec!r} names no model: write {_EXPECTED}")
    return match["where"], match["name"].strip(), _arguments(spec, match["arguments"])


def _arguments(spec: str, text: str | None) -> dict[str, Any]:
    """``"(a=1, b=[2])"`` as a dict; literals only, so that reading a configuration runs no code."""
    if text is None:
        return {}
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise TargetError(f"{spec}: arguments must be name=literal, such as (width=64, act='relu')") from None


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _hint(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


# -- importing a user's code


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where or "\\" in where


def _package_root(file: Path) -> Path:
    """The directory that ``file``'s outermost package lies in (its own directory when it is in none)."""
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return root


def _search_path(where: str, root: Path) -> Path:
    return _package_root((root / where).resolve()) if _is_file(where) else root


@contextlib.contextmanager
def _importable_from(directory: Path) -> Iterator[None]:
    """Put the directory on ``sys.path`` and take exactly that entry off again."""
    entry = str(directory)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _import(spec: str, where: str, root: Path) -> ModuleType:
    try:
        if _is_file(where):
            return _import_file(spec, (root / where).resolve())
        if not all(part.isidentifier() for part in where.split(".")):
            raise TargetError(f"{spec!r} names no model: write {_EXPECTED}")
        return importlib.import_module(where)
    except InitcheckError:
        raise
    except ModuleNotFoundError as e:
        if e.name is not None and (where == e.name or where.startswith(f"{e.name}.")):
            raise TargetError(
                f"{spec}: there is no module {e.name!r} (looked in {root} and the installed packages): "
                "install it, correct the name, or write path/file.py:NAME"
            ) from None
        told = f"importing {where} failed"
        raise TargetError(f"{spec}: {told} ({named_error(e)}): install what it needs", short=told) from e
    except SystemExit as e:
        raise TargetError(
            f"{spec}: importing {where} ended the program (SystemExit: {e}): "
            "put what runs as a script under if __name__ == '__main__'"
        ) from e
    except Exception as e:
        told = f"importing {where} failed"
        raise TargetError(f"{spec}: {told} ({named_error(e)}): mend the module first", short=told) from e


def _import_file(spec: str, file: Path) -> ModuleType:
    if not file.is_file():
        raise TargetError(f"{spec}: there is no file {file}: paths are relative to the directory of the configuration")
    inside = file.relative_to(_package_root(file)).with_suffix("").parts
    if len(inside) > 1:  # a module of a package: under its real name, so that its relative imports work
        return importlib.import_module(".".join(inside[:-1] if inside[-1] == "__init__" else inside))
    # A name of its own: two files called models.py do not meet, and neither hides an installed module.
    name = f"_initcheck_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = importlib.util.spec_from_file_location(name, file)
    if loader is None or loader.loader is None:
        raise TargetError(f"{spec}: {file} is no Python file: name a .py file")
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module  # before it runs: dataclasses and pickling look their module up
    try:
        loader.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(spec: str, module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            owner = spec.rpartition(":")[0] if found is module else getattr(found, "__name__", str(found))
            known = [n for n in dir(found) if not n.startswith("_")]
            raise TargetError(f"{spec}: {owner} has no {part!r}{_hint(part, known)}: correct the name") from None
    return found


# -- building


def _is_module(value: object) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)


def _refuse_missing_arguments(spec: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # some builtins have none; calling them tells
    try:
        signature.bind(**arguments)
    except TypeError as e:
        raise TargetError(
            f"{spec}: {getattr(factory, '__name__', 'it')} cannot be called like this ({e}): "
            f"write the arguments as {spec.partition('(')[0]}(name=value) or name a factory without any"
        ) from None


def _guarded(
    spec: str, build: Callable[[], Any], search: Path, *, wraps: Callable[..., Any] | None = None
) -> Callable[[], nn.Module]:
    """Return ``build`` with its failures as :class:`TargetError`; ``__wrapped__`` is what the user wrote."""

    def factory() -> nn.Module:
        try:
            with _importable_from(search):
                model = build()
        except InitcheckError:
            raise
        except (Exception, SystemExit) as e:
            told = "building the model failed"
            raise TargetError(f"{spec}: {told} ({named_error(e)}); -v shows where", short=told) from e
        if not _is_module(model):
            raise TargetError(f"{spec}: the factory returned {_a(type(model).__name__)}, expected an nn.Module")
        return model  # type: ignore[no-any-return]

    factory.__name__ = factory.__qualname__ = spec
    if wraps is not None:
        factory.__wrapped__ = wraps  # type: ignore[attr-defined]
    return factory


# -- libraries


def _library(spec: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name != name:
            told = f"importing {name} failed"
            raise TargetError(f"{spec}: {told} ({named_error(e)}): install what it needs", short=told) from e
        raise TargetError(f"{spec} needs {name}, not installed: pip install 'pytest-initcheck[{name}]'") from None
    except Exception as e:
        import torch

        fitting = f"install the {name} that fits torch {torch.__version__}"
        told = f"importing {name} failed"
        raise TargetError(f"{spec}: {told} ({named_error(e)}): {fitting}", short=told) from e


def _timm(spec: str, name: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    timm = _library(spec, "timm")
    if not timm.is_model(name):
        hint = _hint(name, timm.list_models())
        raise TargetError(f"{spec}: timm has no model {name!r}{hint}: see timm.list_models()")
    return functools.partial(timm.create_model, name, **{"pretrained": False, **arguments})


def _torchvision(spec: str, name: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    models = _library(spec, "torchvision").models
    known = models.list_models()
    if name.lower() not in known:
        hint = _hint(name, known)
        raise TargetError(f"{spec}: torchvision has no model {name!r}{hint}: see torchvision.models.list_models()")
    builder = models.get_model_builder(name)
    # Detection and segmentation models download a trained backbone unless told not to.
    untrained = {k: None for k in ("weights", "weights_backbone") if k in inspect.signature(builder).parameters}
    return functools.partial(builder, **{**untrained, **arguments})


#: What a bare configuration is built as, the first that has a class for it: what the architecture is trained as.
_HEADS = {
    "MODEL_FOR_PRETRAINING_MAPPING": "AutoModelForPreTraining",
    "MODEL_FOR_CAUSAL_LM_MAPPING": "AutoModelForCausalLM",
    "MODEL_FOR_MASKED_LM_MAPPING": "AutoModelForMaskedLM",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING": "AutoModelForSeq2SeqLM",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING": "AutoModelForImageClassification",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING": "AutoModelForAudioClassification",
}


def _transformers(spec: str, name: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    transformers = _library(spec, "transformers")
    part = functools.partial(_part, spec, transformers)
    found: Any = part(name) if name.isidentifier() else None
    make: Callable[..., Any]
    bases = found.__mro__ if inspect.isclass(found) else ()
    if part("PreTrainedModel") in bases and found.config_class is not None:
        return lambda: found(found.config_class(**arguments))
    if part("PretrainedConfig") in bases:
        make = found
    elif name in part("CONFIG_MAPPING"):
        make = part("CONFIG_MAPPING")[name]
    elif name.isidentifier() and name != name.lower():  # a class name: no model id on the hub is spelled like that
        known = [n for n in dir(transformers) if n[:1].isupper()]
        raise TargetError(f"{spec}: transformers has no class {name!r}{_hint(name, known)}: correct the name")
    else:
        make = functools.partial(_hub_config, spec, name, transformers)

    def build() -> Any:
        config = make(**arguments)
        for architecture in getattr(config, "architectures", None) or ():
            if (head := part(architecture)) is not None:
                return head(config)
        for mapping, auto in _HEADS.items():
            if type(config) in (part(mapping) or ()):
                return part(auto).from_config(config)
        return part("AutoModel").from_config(config)

    return build


def _part(spec: str, transformers: Any, name: str) -> Any:
    """The attribute, which transformers imports now and not before; ``None`` if there is none."""
    try:
        return getattr(transformers, name, None)
    except Exception as e:
        import torch

        cause: BaseException = e
        while cause.__cause__ is not None:  # what transformers says itself is that there was something
            cause = cause.__cause__
        raise TargetError(
            f"{spec}: transformers could not import {name} ({named_error(cause)}): mend or take out the library it needs for "
            f"that, such as a torchvision that does not fit torch {torch.__version__}"
        ) from e


def _hub_config(spec: str, name: str, transformers: Any, **arguments: Any) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(name, **arguments)
    except Exception as e:
        hint = _hint(name, list(transformers.CONFIG_MAPPING))
        raise TargetError(
            f"{spec}: transformers has no model type {name!r}{hint} and could not read that configuration from the hub "
            f"({named_error(e)}): correct the name or write a class such as hf:GPT2Config"
        ) from e


_LIBRARIES: Mapping[str, Callable[[str, str, dict[str, Any]], Callable[[], Any]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _transformers,
}
