"""``python -m pytest_initcheck`` is the ``initcheck`` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
