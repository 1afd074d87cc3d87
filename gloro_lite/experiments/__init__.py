"""What the book's figures and tables were measured with: a command each, `python -m gloro_lite.experiments.<name>`.

Each writes files under `data/` that chapters read: its docstring and `data/README.md` name them. `recertify` brings stored runs
up to date; `searches` and `each_run` are no commands, but what others share. All stand above `gloro_lite.train` and
`gloro_lite.methods`, which know nothing of them.
"""
