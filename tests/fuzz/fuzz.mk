# SPDX-License-Identifier: MIT
#
# `make fuzz`: every tests/fuzz/NAME.c is a target over untrusted input and NAME.seeds/ holds inputs
# to start from; below, a line each says which sources it is linked with and which words it knows.
# Each target runs for FUZZ_SECONDS under AddressSanitizer and UBSan; an input that breaks it stays
# in $(O)/fuzz/NAME.found/ and fails the run.
#
#   make fuzz FUZZ_SECONDS=600 FUZZ_TARGETS=config

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))
FUZZ_CFLAGS  := -std=gnu11 -g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined \
	-fno-sanitize-recover=undefined $(WARN)

FUZZ_DICT_config := $(O)/fuzz/config.dict
FUZZ_OBJ_config  := $(patsubst %.c,$(O)/fuzz/%.o,$(wildcard userspace/config/*.c) \
	$(addprefix userspace/base/,addr.c json.c log.c regular_file.c))
$(O)/fuzz/config: $(FUZZ_OBJ_config)

FUZZ_OBJ_answer := $(O)/fuzz/userspace/backend/answer.o
$(O)/fuzz/answer: $(FUZZ_OBJ_answer)

FUZZ_OBJ_proxy_protocol := $(O)/fuzz/userspace/flow/proxy_protocol.o $(O)/fuzz/userspace/base/addr.o
$(O)/fuzz/proxy_protocol: $(FUZZ_OBJ_proxy_protocol)

FUZZ_OBJ_client_hello := $(O)/fuzz/userspace/flow/client_hello.o
$(O)/fuzz/client_hello: $(FUZZ_OBJ_client_hello)

FUZZ_OBJ_handover := $(patsubst %,$(O)/fuzz/userspace/%.o,flow/handover_wire base/addr)
$(O)/fuzz/handover: $(FUZZ_OBJ_handover)

FUZZ_DICT_admin_request := $(O)/fuzz/admin_request.dict
FUZZ_OBJ_admin_request := $(patsubst %,$(O)/fuzz/userspace/%.o,control/admin_request config/prefix \
	config/units base/addr base/json base/log)
$(O)/fuzz/admin_request: $(FUZZ_OBJ_admin_request)

FUZZ_OBJ_cluster_wire := $(patsubst %.c,$(O)/fuzz/%.o,$(wildcard userspace/cluster/member*.c) \
	userspace/cluster/wire.c userspace/base/addr.c userspace/base/hash.c)
$(O)/fuzz/cluster_wire: $(FUZZ_OBJ_cluster_wire)

FUZZ_OBJ_cluster_seal := $(patsubst %,$(O)/fuzz/userspace/%.o,cluster/seal cluster/seal_keys \
	base/hash)
$(O)/fuzz/cluster_seal: $(FUZZ_OBJ_cluster_seal)

FUZZ_OBJ_cluster_share := $(patsubst %.c,$(O)/fuzz/%.o,$(wildcard userspace/cluster/share*.c) \
	userspace/base/hash.c)
$(O)/fuzz/cluster_share: $(FUZZ_OBJ_cluster_share)

FUZZ_BIN := $(FUZZ_TARGETS:%=$(O)/fuzz/%)
FUZZ_OBJ := $(sort $(FUZZ_TARGETS:%=$(O)/fuzz/tests/fuzz/%.o) $(foreach t,$(FUZZ_TARGETS),$(FUZZ_OBJ_$t)))

$(FUZZ_OBJ): $(O)/fuzz/%.o: %.c $(STAMP)
	$(call msg,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(CPPFLAGS) $(FUZZ_CFLAGS) -MMD -MP -c $< -o $@

$(FUZZ_BIN): $(O)/fuzz/%: $(O)/fuzz/tests/fuzz/%.o
	$(call msg,FUZZ,$@)
	$(Q)$(CLANG) $(FUZZ_CFLAGS) -o $@ $^ $(LDLIBS)

# Keys and words of the schema save the fuzzer from spelling them letter by letter.
$(O)/fuzz/config.dict: userspace/config/schema.c
	@mkdir -p $(@D)
	$(Q)grep -o '{"[a-z0-9_.]*"' $< | sort -u | sed 's/^{//' > $@

$(O)/fuzz/admin_request.dict: userspace/control/admin_request.c
	@mkdir -p $(@D)
	$(Q)grep -o '{"[a-z_]*"' $< | sort -u | sed 's/^{//' > $@

.PHONY: fuzz
fuzz: $(FUZZ_TARGETS:%=fuzz-%) ## fuzz every untrusted input for FUZZ_SECONDS each

# The corpus grows in the output folder; the seeds stay as they are.
.PHONY: $(FUZZ_TARGETS:%=fuzz-%)
$(FUZZ_TARGETS:%=fuzz-%): fuzz-%: $(O)/fuzz/%
	@mkdir -p $(O)/fuzz/$*.corpus $(O)/fuzz/$*.found
	$(Q)$(O)/fuzz/$* -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
		-print_final_stats=1 -artifact_prefix=$(O)/fuzz/$*.found/ \
		$(FUZZ_DICT_$*:%=-dict=%) $(O)/fuzz/$*.corpus tests/fuzz/$*.seeds

$(foreach t,$(FUZZ_TARGETS),$(eval fuzz-$t: $(FUZZ_DICT_$t)))
-include $(FUZZ_OBJ:.o=.d)
