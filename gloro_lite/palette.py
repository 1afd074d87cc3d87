"""The colours of classes, of bottom and of attacks, which figures and widgets take from one file, widgets/palette.js.

Each class has a contrast of at least 3 with white, the first six also with the dark theme's ground; any two, bottom among
them, differ by more than 15 in CIELAB for readers with full deuteranopia. tests/test_palette.py measures this.
"""

from __future__ import annotations

import json
from importlib import resources

_TEXT = resources.files(__package__).joinpath("widgets", "palette.js").read_text(encoding="utf-8")
PALETTE: dict = json.loads(_TEXT[_TEXT.index("{") : _TEXT.rindex("}") + 1])
"""classes, a list of colours; names, what readers call them; bottom; attack."""
