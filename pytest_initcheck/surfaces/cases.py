"""Factories of a test module that are to be checked: what :func:`model_case` says of them, and who was told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import SettingsError
from ..models.shapes import parse_shapes
from ..settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ModelCase:
    """What :func:`model_case` was told about a factory.

    Attributes:
        factory: the function or class itself.
        inputs: as ``check_init`` accepts them.
        loss: as ``check_init`` accepts it.
        settings: settings by name, as given.
    """

    factory: Callable[..., Any]
    inputs: Any = None
    loss: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def model_case(inputs: Any = None, *, loss: Any = None, **settings: Any) -> Callable[[F], F]:
    """Mark a model class or factory of a test module to be checked by ``pytest --initcheck``.

    The factory itself is returned unchanged, so it can still be called::

        @model_case("2x3x32x32", ignore=["dead-units:head.*"])
        def resnet():
            return ResNet(depth=18)

    Args:
        inputs: example inputs as ``check_init`` accepts them; inferred if not given.
        loss: loss as ``check_init`` accepts it.
        **settings: the settings of ``check_init``.

    Raises:
        SettingsError: a setting is unknown, a value or the shape string cannot be used, or the factory takes arguments.
            While pytest collects, this ends the run.
    """
    try:
        Settings.of(settings)
        if isinstance(inputs, str):
            parse_shapes(inputs)
    except SettingsError as e:
        raise SettingsError(f"model_case: {e}") from None

    def mark(factory: F) -> F:
        name = getattr(factory, "__name__", "the factory")
        if not callable(factory):
            raise SettingsError(f"model_case must decorate a factory or a model class (got {type(factory).__name__})")
        try:
            inspect.signature(factory).bind()
        except TypeError as e:
            raise SettingsError(f"model_case: {name} must be callable without arguments ({e}): wrap it") from None
        factory.__initcheck_case__ = ModelCase(factory, inputs, loss, dict(settings))  # type: ignore[attr-defined]
        return factory

    return mark


def case_of(value: object) -> ModelCase | None:
    """Return what :func:`model_case` said about this very object (not about a base class or a wrapped function)."""
    case = getattr(value, "__dict__", {}).get("__initcheck_case__")
    return case if isinstance(case, ModelCase) and case.factory is value else None
