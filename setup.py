"""What pyproject.toml cannot say: a wheel carries a small net's weights, so that `gloro_lite.load` works without a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
WEIGHTS = Path("mnist-0.3", "seed-0")
"""Less than 1 MB. The others are larger, or say the same."""


class BuildWithWeights(build_py):
    """Copies the net from `data/results` to `gloro_lite/weights` of the wheel. An editable install reads it where it is."""

    def run(self):
        # What an earlier build left there may have been deleted from the project since.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for name in ("model.safetensors", "result.json"):
                target = Path(self.build_lib, "gloro_lite", "weights", WEIGHTS, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / "data" / "results" / WEIGHTS / name, target)


setup(cmdclass={"build_py": BuildWithWeights})
