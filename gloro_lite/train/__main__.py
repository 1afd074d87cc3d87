"""The command line: `python -m gloro_lite.train --recipe mnist-0.3`."""

import sys

if __name__ == "__main__":
    from gloro_lite.train.command import main

    sys.exit(main())
