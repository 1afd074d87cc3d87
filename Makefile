# Two commands set up everything on a fresh machine with Python 3.11 to 3.14:
#   make book    run the notebooks, render the book
#   make test    lint, types, unit tests, notebooks as tests, the rendered book
# On Linux, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu before them takes PyTorch's CPU build, of a tenth of the size.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# A process for each core, and no more than memory has room for. The pages are tested by one: a browser takes several cores itself.
SPREAD := -n auto --maxprocesses 4

.PHONY: help setup book pdf notebooks lab lint check test links cards bench picture mutants serve clean lock

help:
	@echo "make book   run the notebooks and render the book"
	@echo "make pdf    the whole book as one PDF, which its first page links to (needs Chromium or Chrome)"
	@echo "make lab    the chapters in JupyterLab, to change and run"
	@echo "make check  lint, types and the fast tests, in a minute"
	@echo "make test   everything that CI checks"
	@echo "make links  follow every link of the book to other sites"
	@echo "make cards  the model cards and the README's table, from data/"
	@echo "make bench  the cost of a step, of a certificate and of a widget's redraw on this machine"
	@echo "make picture  the README's picture of the margin explorer"
	@echo "make mutants  break the code that certifies in one place at a time, and see whether a test notices: half an hour"
	@echo "make serve  the rendered book on http://localhost:8000"
	@echo "make lock   refresh requirements.lock"
	@echo "make clean  remove what was built (the virtual environment stays)"

# torch goes first and torchvision without its needs: resolved the other way round, they pull gigabytes of another build.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $$(grep '^torchvision==' requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

setup: $(READY)

notebooks: $(READY)
	$(BIN)/python book/_tools/execute.py

# The licences of what the pages hold go with them.
book: notebooks
	$(BIN)/jupyter-book build . --path-output . -W -n --keep-going --quiet
	$(BIN)/python book/_tools/licences.py _build/html
	@echo
	@echo "The book is ready: open $(CURDIR)/_build/html/index.html"

# One page of all chapters, printed by the browser; then the book again, with the link.
pdf: notebooks
	$(BIN)/jupyter-book build . --path-output . --builder singlehtml --quiet
	$(BIN)/python book/_tools/pdf.py
	$(MAKE) book

# In a container one is root, whom Jupyter refuses unless it is told.
lab: $(READY)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) book/introduction.ipynb

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(BIN)/python -m pytest tests --ignore tests/book -q $(SPREAD) -m "not slow and not browser and not data"

test: lint
	$(BIN)/python -m pytest tests --ignore tests/book $(SPREAD)
	$(MAKE) book
	$(BIN)/python -m pytest tests/book

links: notebooks
	$(BIN)/jupyter-book build . --path-output . --builder linkcheck

cards: $(READY)
	$(BIN)/python -m gloro_lite cards

bench: book
	$(BIN)/python -m gloro_lite.experiments.benchmark
	$(BIN)/python -m gloro_lite.experiments.precisions
	$(BIN)/python book/_tools/measure_widgets.py

picture: book
	$(BIN)/python book/_tools/picture.py

mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation

serve: book
	$(BIN)/python -m http.server --directory _build/html 8000

clean:
	rm -rf _build

# A fresh environment, the newest versions that pyproject.toml admits, and what pip then finds installed. Without CUDA's packages,
# which only some builds of torch need and ask for themselves.
lock:
	rm -rf _build/lock
	$(PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip install --quiet torch==2.13.0
	_build/lock/bin/python -m pip install --quiet --no-deps torchvision==0.28.0
	_build/lock/bin/python -m pip install --quiet '.[book,lab,onnx,test,train]'
	_build/lock/bin/python -m pip freeze --all --exclude gloro-lite --exclude pip --exclude wheel | sed 's/+cpu//' | grep -v -i '^\(nvidia\|cuda\|triton\)' > requirements.lock
