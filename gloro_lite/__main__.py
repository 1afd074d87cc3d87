"""`python -m gloro_lite`: see `gloro_lite.cli`."""

import sys

from gloro_lite.cli import main

sys.exit(main())
