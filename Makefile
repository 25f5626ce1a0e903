# layer4-lb: build, test, check. `make help` lists what can be asked for.
#
#   make                 release build (LTO, hardened) into build/
#   make SAN=1           the same under AddressSanitizer and UBSan, into build/san/
#   make COV=1           the same, counting which lines are executed, into build/cov/
#   make V=1             show every command
#   make O=DIR           build into DIR
#
# Header dependencies come from the compilers (-MMD -MP, clang for BPF too); a change of flags
# rebuilds everything through the stamp file. Parsing needs no tool beyond a bare Debian: whatever
# `scripts/install-deps` has yet to install may be missing until a rule runs it.

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
# One job per core unless the caller said otherwise; makes below share the jobs of the first.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif

ifeq ($(SAN),1)
O := build/san
else ifeq ($(COV),1)
O := build/cov
else
O := build
endif
V ?= 0
ifeq ($(V),0)
Q := @
# `make -s` is silent altogether.
msg = $(if $(findstring s,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),@:,@printf '  %-8s %s\n' \
	"$(1)" "$(patsubst $(O)/%,%,$(2))")
else
Q   :=
msg = @:
endif

CC      := gcc
CLANG   ?= clang
STRIP   ?= llvm-strip
BPFTOOL ?= /usr/sbin/bpftool
PYTHON  ?= /usr/bin/python3
PREFIX  ?= /usr/local
UNITDIR ?= $(PREFIX)/lib/systemd/system
VERSION := $(shell cat VERSION)

PKGS := libbpf libxdp libcrypto libssl yaml-0.1 libcap-ng libmicrohttpd libmnl libcares jansson ncursesw
ARCH := $(shell $(CC) -print-multiarch 2>/dev/null)

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wformat=2 -Wundef -Wvla -Wno-unused-parameter -Wno-missing-field-initializers
CPPFLAGS := -D_GNU_SOURCE -DLB_VERSION='"$(VERSION)"' -Iinclude -Iuserspace -I$(O)/bpf \
	$(shell pkg-config --cflags $(PKGS) 2>/dev/null)
ifeq ($(SAN),1)
CFLAGS  := -std=gnu11 -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined $(WARN)
LDFLAGS := -fsanitize=address,undefined -Wl,--as-needed
else ifeq ($(COV),1)
CFLAGS  := -std=gnu11 -g -O0 --coverage -fprofile-update=atomic $(WARN)
LDFLAGS := --coverage -Wl,--as-needed
else
# Fat objects: the programs are linked with LTO, the many test programs quickly without.
CFLAGS  := -std=gnu11 -g -O2 -flto=auto -ffat-lto-objects -fno-semantic-interposition -fPIE \
	-fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=2 \
	$(if $(filter x86_64-%,$(ARCH)),-fcf-protection) \
	$(if $(filter aarch64-%,$(ARCH)),-mbranch-protection=standard) $(WARN)
LDFLAGS := -flto=auto -O2 -pie -Wl,-z,relro,-z,now,-z,noexecstack,--as-needed
endif
LDLIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread

BPF_CFLAGS := -target bpf -mcpu=v3 -g -O2 -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-declarations -fdebug-compilation-dir=. -Iinclude -Ibpf \
	-idirafter /usr/include/$(ARCH)

BPF_SRC   := $(wildcard bpf/*.bpf.c)
BPF_OBJ   := $(BPF_SRC:bpf/%.c=$(O)/bpf/%.o)
BPF_SKEL  := $(BPF_SRC:bpf/%.bpf.c=$(O)/bpf/%.skel.h)
MAIN_SRC  := $(wildcard userspace/main.c)
LIB_SRC   := $(filter-out userspace/tools/%,$(wildcard userspace/*/*.c)) $(wildcard userspace/worker.c)
LIB_OBJ   := $(LIB_SRC:%.c=$(O)/%.o)
# A tool is userspace/tools/NAME.c, the files of userspace/tools/NAME/ if any, and tools/common/.
TOOL_MAIN := $(wildcard userspace/tools/*.c)
TOOL_SRC  := $(TOOL_MAIN) $(wildcard userspace/tools/*/*.c)
TOOLS     := $(TOOL_MAIN:userspace/tools/%.c=$(O)/%)
tool_parts = $(patsubst %.c,$(O)/%.o,$(wildcard userspace/tools/$(1)/*.c userspace/tools/common/*.c))
UNIT_SRC  := $(shell find tests/unit -name '*.c' 2>/dev/null)
UNIT_BIN  := $(UNIT_SRC:tests/%.c=$(O)/tests/%)
BPFT_SRC  := $(wildcard tests/bpf/*.c)
BPFT_BIN  := $(BPFT_SRC:tests/%.c=$(O)/tests/%)
E2E_SRC   := $(wildcard tests/e2e/*.c)
E2E_BIN   := $(E2E_SRC:tests/%.c=$(O)/tests/%)
TEST_BIN  := $(UNIT_BIN) $(BPFT_BIN) $(E2E_BIN)
# What tests put between the program and its libraries.
PRELOAD_SRC := $(wildcard tests/e2e/preload/*.c)
PRELOAD_SO  := $(PRELOAD_SRC:tests/%.c=$(O)/tests/%.so)
PROGRAM   := $(MAIN_SRC:userspace/main.c=$(O)/layer4-lb)

.PHONY: all
all: $(PROGRAM) $(TOOLS) ## build the load balancer and its tools (the default)

# --- stamps: files whose content is a fact; rewritten, hence newer, only when the fact changes ----
STAMP := $(O)/.flags
FLAGS := $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS) | $(CLANG) $(BPF_CFLAGS)
quote = '$(subst ','\'',$(1))'
stamp = $(shell mkdir -p $(O); printf '%s' $(call quote,$(2)) | cmp -s - $(1) || \
	printf '%s' $(call quote,$(2)) > $(1))
ifneq ($(filter-out help clean distclean deps,$(or $(MAKECMDGOALS),all)),)
$(call stamp,$(STAMP),$(FLAGS))
# A source that went away must leave the archive too.
$(call stamp,$(O)/.members,$(LIB_OBJ))
endif

.PHONY: toolchain
toolchain:
	@command -v $(CC) $(CLANG) $(STRIP) $(BPFTOOL) pkg-config >/dev/null && \
	pkg-config --exists $(PKGS) || \
	{ echo 'Build tools or libraries are missing: scripts/install-deps installs them.' >&2; exit 1; }

# --- BPF: object -> without DWARF (BTF stays) -> skeleton ------------------------------------------
$(O)/bpf/%.bpf.o: bpf/%.bpf.c $(STAMP) | toolchain
	$(call msg,BPF,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(@:.o=.d) -MT $@ -c $< -o $@
	$(Q)$(STRIP) -g $@

$(BPF_SKEL): $(O)/bpf/%.skel.h: $(O)/bpf/%.bpf.o
	$(call msg,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $* > $@

# --- userspace -----------------------------------------------------------------------------------
$(O)/userspace/%.o: userspace/%.c $(STAMP) | toolchain
	$(call msg,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# The dashboard is a part of the program.
$(O)/userspace/control/page.o: userspace/control/page.html

# Skeletons are build products: they must exist before the first compile finds out who includes them.
$(filter $(O)/userspace/kernel/%,$(LIB_OBJ)): | $(BPF_SKEL)

$(O)/liblb.a: $(LIB_OBJ) $(O)/.members
	$(call msg,AR,$@)
	$(Q)rm -f $@ && gcc-ar rcs $@ $(LIB_OBJ)

$(O)/layer4-lb: $(O)/userspace/main.o $(O)/liblb.a
	$(call msg,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

.SECONDEXPANSION:
$(TOOLS): $(O)/%: $(O)/userspace/tools/%.o $$(call tool_parts,$$*) $(O)/liblb.a
	$(call msg,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# --- tests ---------------------------------------------------------------------------------------
# Every file is a program: a test exists because its file does. A case that is written but not
# registered is an unused function and does not compile. gcc 12 takes the text that open_memstream
# made for the address of the variable it stored it in.
TEST_CFLAGS := $(CFLAGS) -fno-lto -Werror=unused-function -Wno-dangling-pointer -Itests
$(UNIT_BIN) $(BPFT_BIN): TEST_LIBS := -lcmocka
$(TEST_BIN): $(O)/tests/%: tests/%.c $(O)/liblb.a $(STAMP) | toolchain
	$(call msg,TEST,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -MF $@.d -MT $@ $(LDFLAGS) -fno-lto -o $@ $< \
		$(TEST_PARTS) $(O)/liblb.a $(LDLIBS) $(TEST_LIBS)
$(BPFT_BIN) $(filter $(O)/tests/unit/kernel/%,$(UNIT_BIN)): | $(BPF_SKEL)
# The parts of a tool are in no archive: tests/unit/tools/NAME/ is linked with those of NAME.
define tool_tests
$(filter $(O)/tests/unit/tools/$(1)/%,$(UNIT_BIN)): $(call tool_parts,$(1))
$(filter $(O)/tests/unit/tools/$(1)/%,$(UNIT_BIN)): TEST_PARTS := $(call tool_parts,$(1))
endef
$(foreach t,$(TOOLS:$(O)/%=%),$(if $(filter $(O)/tests/unit/tools/$t/%,$(UNIT_BIN)),$(eval \
	$(call tool_tests,$t))))

# Never sanitized itself: the runtime of a sanitizer is in the program.
$(PRELOAD_SO): $(O)/tests/%.so: tests/%.c $(STAMP) | toolchain
	$(call msg,TEST,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(WARN) -O2 -g -std=gnu11 -fPIC -shared -fno-builtin \
		$(if $(filter 1,$(SAN)),-DLB_SANITIZED) -o $@ $<

.PHONY: tests
tests: $(TEST_BIN) $(PRELOAD_SO)

# Installs first, then enters make anew: what pkg-config says is asked again.
.PHONY: deps test
deps: ## install what building and running need (root; nothing to do is quick)
	@scripts/install-deps
test: ## install what is missing, build, run unit, BPF and end-to-end tests (TEST_ARGS=--help)
	@scripts/install-deps --test
	+@$(MAKE) --no-print-directory $(if $(filter 1,$(SAN)),SAN=1) O=$(O) all tests
	@LB_BUILD=$(O) $(if $(filter 1,$(SAN)),LB_SAN=1) scripts/test --built $(TEST_ARGS)

CHURN ?= 1000000
.PHONY: churn
churn: ## a million short connections through few client ports, grafted (CHURN=N)
	@scripts/install-deps --test
	+@$(MAKE) --no-print-directory $(if $(filter 1,$(SAN)),SAN=1) O=$(O) all tests
	@LB_BUILD=$(O) LB_CHURN=$(CHURN) scripts/test --built --e2e -k churn -- -s

.PHONY: test-long
test-long: ## as `make test`, with the end-to-end tests that are left out there for their length
	+@$(MAKE) --no-print-directory test TEST_ARGS="--long $(TEST_ARGS)"

.PHONY: nth-failure
nth-failure: ## the daemon with the n-th malloc, accept4, connect .. that fails, n = 1..200 (minutes)
	@scripts/install-deps --test
	+@$(MAKE) --no-print-directory $(if $(filter 1,$(SAN)),SAN=1) O=$(O) all tests
	@LB_BUILD=$(O) LB_FAULTS=all scripts/test --built --e2e -k nth_failure -- -s

SOAK ?= 600
.PHONY: soak
soak: ## clients and operators of all kinds at once for ten minutes (SOAK=SECONDS)
	@scripts/install-deps --test
	+@$(MAKE) --no-print-directory $(if $(filter 1,$(SAN)),SAN=1) O=$(O) all tests
	@LB_BUILD=$(O) $(if $(filter 1,$(SAN)),LB_SAN=1) LB_SOAK_SECONDS=$(SOAK) \
		scripts/test --built --e2e -k soak -- -s

COVERAGE_FLOOR ?= 52
.PHONY: coverage
coverage: ## which lines the unit and BPF tests execute, into build/cov/; fails below COVERAGE_FLOOR %
	@scripts/install-deps --test --coverage
	+@$(MAKE) --no-print-directory COV=1 all tests
	@find build/cov -name '*.gcda' -delete
	@LB_BUILD=build/cov scripts/test --built --unit --bpf
	@gcovr --root . --filter userspace/ --exclude 'userspace/tools/demo|userspace/main.c' \
		--object-directory build/cov --sort-uncovered --txt build/cov/coverage.txt \
		--html-details build/cov/coverage.html --fail-under-line $(COVERAGE_FLOOR); \
		code=$$?; tail -n 3 build/cov/coverage.txt; exit $$code

.PHONY: scan-tls
scan-tls: ## all that testssl.sh and sslscan say of TLS in its default configuration (minutes)
	@scripts/install-deps --test
	+@$(MAKE) --no-print-directory $(if $(filter 1,$(SAN)),SAN=1) O=$(O) all tests
	@LB_BUILD=$(O) LB_SCAN=full scripts/test --built --e2e -k "testssl or sslscan" -- -s

.PHONY: cluster-sim
cluster-sim: ## what docs/cluster.md says of 1000 nodes, simulated for an hour (minutes)
	@scripts/install-deps --test
	+@$(MAKE) --no-print-directory O=$(O) $(O)/tests/unit/cluster/member_scale
	@LB_SIM=long $(O)/tests/unit/cluster/member_scale

# --- checks: silent on a clean tree --------------------------------------------------------------
.PHONY: check
check: ## format, house rules, static analysis: file, line and rule of what is wrong
	@scripts/install-deps --check
	+@LB_BUILD=$(O) scripts/check

# clang-tidy looks again at a source only when the source, a header it reads or the rules changed:
# that is when its object was made anew.
TIDY_SRC := $(LIB_SRC) $(MAIN_SRC) $(TOOL_SRC) $(BPF_SRC)
TIDY_OK  := $(TIDY_SRC:%.c=$(O)/tidy/%.ok)
CLANG_TIDY ?= clang-tidy
.PHONY: tidy
tidy: $(TIDY_OK)
$(O)/tidy/%.ok: %.c $(O)/%.o .clang-tidy $(O)/compile_commands.json
	$(call msg,TIDY,$<)
	@mkdir -p $(@D)
	$(Q)$(CLANG_TIDY) --quiet --warnings-as-errors='*' -p $(O) $< 2>$@.err || { cat $@.err >&2; exit 1; }
	@touch $@

# What clang tools need to know, straight from the rules above. gcc's own flags are left out.
CLANG_CFLAGS := $(filter-out -flto=% -ffat-lto-objects,$(CFLAGS))
json = {"directory": "$(CURDIR)", "file": "$(1)", "command": "$(subst ",\",$(2)) -c $(1)"}
define newline


endef
$(O)/compile_commands.json: $(STAMP) $(O)/.sources
	$(call msg,JSON,$@)
	@: $(file >$@,[$(foreach s,$(filter-out $(BPF_SRC),$(TIDY_SRC)),$(call json,$s,$(CLANG) $(CPPFLAGS) $(CLANG_CFLAGS)),$(newline))\
		$(foreach s,$(UNIT_SRC) $(BPFT_SRC) $(E2E_SRC) $(PRELOAD_SRC),$(call json,$s,$(CLANG) $(CPPFLAGS) $(CLANG_CFLAGS) -Itests),$(newline))\
		$(foreach s,$(BPF_SRC),$(call json,$s,$(CLANG) $(BPF_CFLAGS)),$(newline))\
		{"directory": "$(CURDIR)", "file": "-", "command": "true"}])
ifneq ($(filter $(O)/compile_commands.json tidy,$(MAKECMDGOALS)),)
$(call stamp,$(O)/.sources,$(TIDY_SRC) $(UNIT_SRC) $(BPFT_SRC) $(E2E_SRC))
endif

# --- install, clean, help --------------------------------------------------------------------------
BIN_INSTALL := $(PROGRAM) $(filter $(O)/lbctl,$(TOOLS))
.PHONY: install
install: all ## install under DESTDIR and PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/layer4-lb
	install -m 0755 $(BIN_INSTALL) $(DESTDIR)$(PREFIX)/bin
	install -D -m 0644 docs/lbctl.1 $(DESTDIR)$(PREFIX)/share/man/man1/lbctl.1
	install -D -m 0644 userspace/tools/lbctl/completion.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lbctl
	install -m 0644 lb.yaml LICENSE README.md $(DESTDIR)$(PREFIX)/share/layer4-lb
	install -D -m 0644 docs/layer4-lb.8 $(DESTDIR)$(PREFIX)/share/man/man8/layer4-lb.8
	install -D -m 0644 docs/lb.yaml.5 $(DESTDIR)$(PREFIX)/share/man/man5/lb.yaml.5
	install -m 0644 docs/grafana.json docs/lb.schema.json $(DESTDIR)$(PREFIX)/share/layer4-lb
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@BINDIR@|$(PREFIX)/bin|' systemd/layer4-lb.service >$(DESTDIR)$(UNITDIR)/layer4-lb.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/layer4-lb.service
	install -m 0644 systemd/layer4-lb.socket $(DESTDIR)$(UNITDIR)/layer4-lb.socket
	install -D -m 0644 systemd/limits.conf \
		$(DESTDIR)$(UNITDIR)/layer4-lb.service.d/50-limits.conf
	install -D -m 0644 systemd/sysctl.conf $(DESTDIR)$(PREFIX)/lib/sysctl.d/50-layer4-lb.conf

.PHONY: clean distclean
clean: ## remove what was built; downloads of the benchmark and kernels stay
	$(Q)[ ! -d $(O) ] || find $(O) -mindepth 1 -maxdepth 1 ! -name bench ! -name vmtest -exec rm -rf {} +
distclean: ## remove the whole output folder
	$(Q)rm -rf --one-file-system $(O)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | sort -u | \
	while IFS='|' read -r a b; do printf '%-20s %s\n' "$$a" "$$b"; done
	@printf '%s\n' '' 'Variables: V=1 show commands, SAN=1 sanitizers, O=DIR output folder,' \
	'DESTDIR, PREFIX and UNITDIR for install, TEST_ARGS for scripts/test.'

-include scripts/run.mk scripts/bench.mk scripts/limits.mk scripts/ship.mk tests/fuzz/fuzz.mk vmtest/vmtest.mk
-include $(BPF_OBJ:.o=.d) $(LIB_OBJ:.o=.d) $(MAIN_SRC:%.c=$(O)/%.d) $(TOOL_SRC:%.c=$(O)/%.d) \
	$(TEST_BIN:=.d)
