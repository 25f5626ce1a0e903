# layer4-lb: build, test, check. `make help` lists what can be asked for.
#
#   make                 release build (LTO) into build/
#   make SAN=1           the same under AddressSanitizer and UBSan, into build/san/
#   make V=1             show every command
#
# Header dependencies come from the compilers (-MMD -MP, clang for BPF too); a change of flags
# rebuilds everything through the stamp file.

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

ifeq ($(SAN),1)
O := build/san
else
O := build
endif
V ?= 0
ifeq ($(V),0)
Q   := @
msg = @printf '  %-8s %s\n' "$(1)" "$(patsubst $(O)/%,%,$(2))"
else
Q   :=
msg = @:
endif

CC      := gcc
CLANG   ?= clang
BPFTOOL ?= /usr/sbin/bpftool
PYTHON  ?= /usr/bin/python3
PREFIX  ?= /usr/local
VERSION := $(shell cat VERSION)

PKGS := libbpf libxdp libcrypto libssl yaml-0.1 libcap-ng libmicrohttpd

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wformat=2 -Wundef -Wvla -Wno-unused-parameter -Wno-missing-field-initializers
CPPFLAGS := -D_GNU_SOURCE -DLB_VERSION='"$(VERSION)"' -Iinclude -Iuserspace -I$(O)/bpf \
	$(shell pkg-config --cflags $(PKGS) 2>/dev/null)
ifeq ($(SAN),1)
CFLAGS  := -std=gnu11 -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined \
	-fno-sanitize-recover=undefined $(WARN)
LDFLAGS := -fsanitize=address,undefined
else
CFLAGS  := -std=gnu11 -g -O2 -flto=auto -fno-semantic-interposition -fPIE -fstack-protector-strong \
	-fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2 $(WARN)
LDFLAGS := -flto=auto -O2 -pie -Wl,-z,relro,-z,now,-z,noexecstack
endif
LDLIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread

ARCH_INCLUDE := $(shell $(CC) -print-multiarch 2>/dev/null)
BPF_CFLAGS := -target bpf -mcpu=v3 -g -O2 -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-declarations -Iinclude -Ibpf -idirafter /usr/include/$(ARCH_INCLUDE)

BPF_SRC   := $(wildcard bpf/*.bpf.c)
BPF_SKEL  := $(BPF_SRC:bpf/%.bpf.c=$(O)/bpf/%.skel.h)
LIB_SRC   := $(filter-out userspace/tools/%,$(wildcard userspace/*/*.c)) $(wildcard userspace/worker.c)
LIB_OBJ   := $(LIB_SRC:%.c=$(O)/%.o)
TOOL_SRC  := $(wildcard userspace/tools/*.c)
TOOLS     := $(TOOL_SRC:userspace/tools/%.c=$(O)/%)
UNIT_SRC  := $(shell find tests/unit -name '*.c' 2>/dev/null)
UNIT_BIN  := $(UNIT_SRC:tests/unit/%.c=$(O)/tests/unit/%)
BPFT_SRC  := $(wildcard tests/bpf/*.c)
BPFT_BIN  := $(BPFT_SRC:tests/bpf/%.c=$(O)/tests/bpf/%)
E2E_SRC   := $(wildcard tests/e2e/*.c)
E2E_BIN   := $(E2E_SRC:tests/e2e/%.c=$(O)/tests/e2e/%)
PROGRAM   := $(if $(wildcard userspace/main.c),$(O)/layer4-lb)

.PHONY: all
all: $(PROGRAM) $(TOOLS)

# --- flags stamp -------------------------------------------------------------------------------
STAMP := $(O)/.flags
FLAGS := $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS) | $(CLANG) $(BPF_CFLAGS)
$(shell mkdir -p $(O); printf '%s' '$(subst ','\'',$(FLAGS))' | cmp -s - $(STAMP) || \
	printf '%s' '$(subst ','\'',$(FLAGS))' > $(STAMP))

# --- BPF: object -> stripped object -> skeleton ---------------------------------------------------
$(O)/bpf/%.bpf.o: bpf/%.bpf.c $(STAMP)
	$(call msg,BPF,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(@:.o=.d) -MT $@ -c $< -o $@

$(O)/bpf/%.skel.h: $(O)/bpf/%.bpf.o
	$(call msg,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $* > $@

# --- userspace -----------------------------------------------------------------------------------
$(O)/userspace/%.o: userspace/%.c $(STAMP)
	$(call msg,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

# Skeletons are build products: they must exist before the first compile finds out who includes them.
$(O)/userspace/kernel/%.o: | $(BPF_SKEL)

$(O)/liblb.a: $(LIB_OBJ)
	$(call msg,AR,$@)
	$(Q)rm -f $@ && gcc-ar rcs $@ $^

$(O)/layer4-lb: $(O)/userspace/main.o $(O)/liblb.a
	$(call msg,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(TOOLS): $(O)/%: $(O)/userspace/tools/%.o $(O)/liblb.a
	$(call msg,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# --- tests ---------------------------------------------------------------------------------------
# A unit test that is written but not registered must not compile.
TEST_CFLAGS := $(CFLAGS) -Werror=unused-function -Itests
$(O)/tests/%: tests/%.c $(O)/liblb.a $(STAMP)
	$(call msg,TEST,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(TEST_CFLAGS) -MMD -MP -MF $@.d $(LDFLAGS) -o $@ $< $(O)/liblb.a $(LDLIBS) -lcmocka
$(BPFT_BIN): | $(BPF_SKEL)

.PHONY: tests
tests: $(UNIT_BIN) $(BPFT_BIN) $(E2E_BIN)

-include $(shell find $(O) -name '*.d' 2>/dev/null)
