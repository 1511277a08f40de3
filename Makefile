# One line each; CARGO_BUILD_TARGET is what .cargo/config.toml says, for this machine's architecture.
PREFIX ?= /usr/local
export CARGO_BUILD_TARGET = $(shell uname -m)-unknown-linux-musl
BINARY = $(or $(CARGO_TARGET_DIR),target)/$(CARGO_BUILD_TARGET)/release/corten

.PHONY: release check test bench deny install

release:
	./setup build && cargo build --locked --release

# Formatting, lints, and the unit tests, which hold the rules on how the sources look; without root.
check:
	cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings && cargo test --locked --profile quick --bins

test:
	./test

bench:
	./setup build && ./setup test && cargo bench --locked

deny:
	cargo deny --locked check

# Builds nothing, so that it can be run as root after `make` as a user.
install:
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/corten
