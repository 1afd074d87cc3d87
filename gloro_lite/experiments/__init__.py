"""What the book's figures and tables were measured with: a command each, `python -m gloro_lite.experiments.<name>`.

Each writes a file that chapters read, named in its first line and in `data/README.md`, and says with `--help` how long it takes
or how to shorten it. They stand above `gloro_lite.train` and `gloro_lite.methods`, which know nothing of them.
"""
