"""Take the picture of the HTML report that the README and the first page of the documentation show.

python docs/screenshot.py   (needs chromium; not run in CI)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Write ``docs/images/report.png``."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("chromium or Chrome is needed to take the picture: install one of them")
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder) / "report.html", Path(folder) / "report.png"
        command = [sys.executable, "-m", "pytest_initcheck", "check", "models.py:DeepTanh", "models.py:ConvNet", "-q"]
        subprocess.run([*command, "--report", f"html:{page}"], cwd=HERE / "examples", check=False)  # 1: one is sick
        flags = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,790"]
        subprocess.run([browser, *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)
        target = HERE / "images" / "report.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(picture, target)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
