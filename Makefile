# make demo   run the demo at http://127.0.0.1:7860; TORCH_INDEX=https://... takes torch from there
# make test   lint, type-check and test, the page in a real browser included; WORKERS=4 for more
# make lint   ruff and mypy only
# make fuzz   hostile inputs, crowds and kills: half an hour on two cores; PARTS="files types" for some
# make wheel  build the package, wheel and sdist, into dist/
# make screenshots  pictures of all tabs for the docs, in docs/screenshots
# make docs   the documentation as a site, in site/
# make lock   the lock files in locks/, anew from the requirements
# make audit  known holes in the locked packages; it asks a service on the internet
# make space  SPACE=name/space: upload a Hugging Face Space; `hf auth login` before the first time
# make clean  remove caches; `make distclean` removes .venv as well

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
DEMO := .venv/.demo-requirements
DEV := .venv/.dev-requirements

.PHONY: demo test lint fuzz wheel screenshots docs lock audit space chromium clean distclean
.DELETE_ON_ERROR:

demo: $(DEMO)
	$(BIN)/python app.py

# A worker takes whole files, so that what a file sets up is set up once.
test: $(DEV) chromium lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: $(DEV)
	$(BIN)/python -m fuzz $(PARTS)

wheel: $(DEV)
	$(BIN)/python -m hatchling build

screenshots: $(DEV) chromium
	$(BIN)/python -m scripts.screenshots docs/screenshots

# The variable hides a notice about another program.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header

lock: $(DEV)
	$(LOCK) requirements.txt -o locks/demo.txt
	$(LOCK) requirements-dev.txt --constraints locks/demo.txt -o locks/dev.txt
	{ echo "-r demo.txt"; awk 'NR == FNR { shared[$$0]; next } /^[a-z0-9]/ { keep = !($$0 in shared) } keep' \
		locks/demo.txt locks/dev.txt; } >locks/dev.tmp && mv locks/dev.tmp locks/dev.txt
	$(LOCK) requirements.txt locks/space.in --overrides locks/space.overrides -o locks/space.txt

audit: $(DEV)
	$(BIN)/uv tool run pip-audit@2.10.1 --strict --disable-pip --require-hashes -r locks/demo.txt -r locks/dev.txt

space: $(DEMO)
	@test -n "$(SPACE)" || { echo "Which Space? make space SPACE=name/space" >&2; exit 1; }
	rm -rf build/space
	$(BIN)/python scripts/space.py build/space
	$(BIN)/hf upload $(SPACE) build/space . --repo-type space

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11 to 3.13 is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The stamps make a second run instant, and a changed requirements file installs again.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
# An index with builds for a CPU alone; what is there counts as the version that is pinned.
TORCH = $(if $(TORCH_INDEX),$(INSTALL) --index-url $(TORCH_INDEX) \
	$$(grep -E '^torch(vision)?==' requirements.txt))

$(DEMO): requirements.txt | $(BIN)/python
	$(TORCH)
	$(INSTALL) -r requirements.txt
	@touch $@

$(DEV): requirements.txt requirements-train.txt requirements-ray.txt requirements-dev.txt | $(BIN)/python
	$(TORCH)
	$(INSTALL) -r requirements-dev.txt
	@touch $(DEMO) $@

# The browser tests drive $CHROMIUM, or the first Chromium on PATH.
chromium:
	@find() { \
		if [ -n "$$CHROMIUM" ]; then command -v "$$CHROMIUM"; \
		else command -v chromium || command -v chromium-browser || command -v google-chrome; fi; \
	}; \
	find >/dev/null && exit 0; \
	if [ -z "$$CHROMIUM" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update && apt-get install -y --no-install-recommends chromium; \
	fi; \
	find >/dev/null || { \
		echo "The tests need a Chromium: install one, or set CHROMIUM to its path" >&2; exit 1; }

clean:
	rm -rf .pytest_cache .ruff_cache .mypy_cache build dist site *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
