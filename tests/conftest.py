"""Shared by every test."""

# pytester's in-process runs drop the modules that the inner run imported, and torch cannot be imported twice.
import torch  # noqa: F401

pytest_plugins = ["pytester"]
