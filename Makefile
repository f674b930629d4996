.DEFAULT_GOAL := help

.PHONY: help demo test torture fuzz quick reference figures docs rpm format

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## set up, then the whole job once: DVD, layers, RPMs, repository, dnf, a clone
	./ci/demo

test: ## set up, then all tests
	./ci/test

torture: ## end golden's commands everywhere and in want of everything, and run them again (root; no trial begins after MINUTES=25; JSON=FILE; JOURNAL=FILE is gone on with)
	.venv/bin/python -m tests.torture --jobs 2 --minutes $(or $(MINUTES),25) --rounds $(or $(ROUNDS),10) $(if $(JSON),--json $(JSON)) $(if $(JOURNAL),--journal $(JOURNAL))

fuzz: ## hostile input for each reader, found by coverage (SECONDS=60 for each)
	.venv/bin/pip install -q -e '.[fuzz]'
	.venv/bin/python -m tests.fuzz --seconds $(or $(SECONDS),60)

quick: ## the tests that start no whole guest
	./ci/test tests/unit tests/fake tests/tools

reference: ## write docs/reference anew out of the code
	.venv/bin/python docs/reference/make.py

figures: ## write docs/benchmarks.md and its plots anew out of docs/benchmarks-*.json
	PYTHONPATH=. .venv/bin/python benchmarks/page.py

docs: ## build the documentation as a site into dist/site; a broken link is an error
	.venv/bin/python -m mkdocs build --strict --site-dir dist/site

rpm: ## build golden's own RPM, with man pages and completions, into dist
	./packaging/build

format: ## format and fix what ruff can fix
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .
