# One line each; CARGO_BUILD_TARGET is what .cargo/config.toml says, for this machine's architecture.
PREFIX ?= /usr/local
export CARGO_BUILD_TARGET = $(shell uname -m)-unknown-linux-musl
PAGES = $(or $(CARGO_TARGET_DIR),target)/man
BINARY = $(or $(CARGO_TARGET_DIR),target)/$(CARGO_BUILD_TARGET)/release/corten

.PHONY: release man check test bench deny install

release:
	./setup build && cargo build --locked --release

man:
	mkdir -p $(PAGES) && cargo run --locked --quiet --example man -- $(PAGES)

# Formatting, lints, and the unit tests, which hold the rules on how the sources look; without root.
check:
	cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings && cargo test --locked --profile quick --bins

test:
	./test

bench:
	./setup build && ./setup test && cargo bench --locked

deny:
	cargo deny --locked check

# Builds nothing, so that it can be run as root after `make` (and `make man`, for there to be pages) as a user.
SHARE = $(DESTDIR)$(PREFIX)/share
install:
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/corten
	$(BINARY) completion bash | install -D -m 644 /dev/stdin $(SHARE)/bash-completion/completions/corten
	$(BINARY) completion zsh | install -D -m 644 /dev/stdin $(SHARE)/zsh/site-functions/_corten
	$(BINARY) completion fish | install -D -m 644 /dev/stdin $(SHARE)/fish/vendor_completions.d/corten.fish
	if [ -d $(PAGES) ]; then install -D -m 644 -t $(SHARE)/man/man8 $(PAGES)/*.8; fi
	if [ -e /etc/apparmor.d/abi/4.0 ] || [ -n "$(APPARMOR)" ]; then sed 's:@BINARY@:$(PREFIX)/bin/corten:' packaging/apparmor \
	  | install -D -m 644 /dev/stdin $(DESTDIR)/etc/apparmor.d/corten; fi
