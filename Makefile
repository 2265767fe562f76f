# Six words for daily work, in the environment that is active.
.PHONY: install quick test check coverage proof

install: # the package, with all that its tests and its style need
	pip install -e '.[dev]'

quick: # theory and contracts, while you work
	pytest -m "theory or contracts"

test: # before you push
	pytest

check: # style and types
	ruff check .
	ruff format --check .
	mypy

coverage: # which lines no test runs; the tests take half as long again
	pytest --cov=diffusion_lab --cov-report=term-missing:skip-covered

proof: # everything, from an empty environment, as CI does
	.ci/run
