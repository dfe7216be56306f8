# np: build, test, measure. `make help` lists the targets.
#
# V picks a variant of the C library: release (default), san (ASan + UBSan),
# tsan, fuzz. Each has its own folder under build/.
V ?= release
BUILD := build/$(V)
MARCH ?= $(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v3,)
SEED ?=

WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
CPPFLAGS := -Icsrc -Icsrc/include -D_GNU_SOURCE
CFLAGS_release := -O3 -g $(MARCH) -fno-strict-aliasing -fno-plt
CFLAGS_san := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan := -O1 -g -fsanitize=thread
CFLAGS_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
CC_release := gcc
CC_san := clang
CC_tsan := clang
CC_fuzz := clang
CC := $(CC_$(V))
CFLAGS := -std=c11 -fPIC $(WARN) $(CFLAGS_$(V))
LDLIBS := -lIPSec_MB -lcrypto -llz4 -lzstd -lpcap -lpthread

# DPDK is optional, and its part a library of its own: see csrc/io/dpdk/README.md. DPDK=  builds without it.
DPDK ?= $(shell pkg-config --exists 'libdpdk >= 22.11' 2>/dev/null && echo 1)
include csrc/io/dpdk/dpdk.mk

LIB_SRC := $(sort $(filter-out $(DPDK_ALL_SRC),$(wildcard csrc/base/*.c csrc/wire/*.c csrc/ip/*.c csrc/tcp/*.c csrc/codec/*.c \
             csrc/crypto/*.c csrc/session/*.c csrc/io/*/*.c csrc/core/*.c)))
# RDMA's control side needs the headers of verbs; without them a file that says so takes its place.
# The libraries themselves are loaded at run time. RDMA=no builds as if the headers were absent.
RDMA ?= $(if $(and $(wildcard /usr/include/infiniband/verbs.h),$(wildcard /usr/include/rdma/rdma_cma.h)),yes,no)
RDMA_VERBS_SRC := $(addprefix csrc/io/rdma/,lib.c cm.c device.c)
LIB_SRC := $(filter-out $(if $(filter yes,$(RDMA)),csrc/io/rdma/none.c,$(RDMA_VERBS_SRC)),$(LIB_SRC))
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o)
LIB := $(BUILD)/libnp.a
# The library is optimized as a whole, because a packet passes through five folders: a
# received segment costs 14 % less. The objects keep ordinary code too, for the lint's nm
# and for debuggers; the archive holds one ordinary object, so that nobody who links it
# needs to know. LTO=  turns it off.
LTO ?= $(if $(filter release,$(V)),$(if $(findstring gcc,$(CC)),1))
$(LIB_OBJ): CFLAGS += $(if $(LTO),-flto -ffat-lto-objects -fvisibility=hidden)

# Every csrc/test/unit/test_*.c is one cmocka program; helpers are the other .c files there.
UNIT_SRC := $(sort $(wildcard csrc/test/unit/test_*.c))
UNIT_BIN := $(UNIT_SRC:%.c=$(BUILD)/%)
UNIT_HELPER_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(UNIT_SRC),$(sort $(wildcard csrc/test/unit/*.c))))
# csrc/test/sim and csrc/test/script are one program each, made of all their .c files.
SIM_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard csrc/test/sim/*.c)))
SCRIPT_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard csrc/test/script/*.c)))
# Every csrc/test/fuzz/fuzz_*.c is one libFuzzer target; its corpus is csrc/test/fuzz/corpus/NAME.
FUZZ_SRC := $(sort $(wildcard csrc/test/fuzz/fuzz_*.c))
FUZZ_BIN := $(FUZZ_SRC:%.c=$(BUILD)/%)
# Every perf/bench_*.c is one benchmark program; peer is the kernel side of them.
BENCH_SRC := $(sort $(wildcard perf/bench_*.c))
BENCH_BIN := $(BENCH_SRC:%.c=$(BUILD)/%) $(BUILD)/perf/peer $(if $(wildcard /usr/include/lwip/lwip/tcp.h),$(BUILD)/perf/lwip)

# scripts/relay is one program, and test_*.c there are its tests.
RELAY_TEST := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard scripts/relay/test_*.c)))
RELAY_LINK_OBJ := $(BUILD)/scripts/relay/link.o $(BUILD)/scripts/relay/spec.o
RELAY_OBJ := $(RELAY_LINK_OBJ) $(BUILD)/scripts/relay/attach.o $(BUILD)/scripts/relay/relay.o

GOFLAGS_BUILD := -trimpath

# One short line a file; VERBOSE=1 shows the commands.
Q := $(if $(VERBOSE),,@)
say = @printf '  %-4s %s\n' '$(1)' '$(2)'
export CGO_LDFLAGS_ALLOW := -Wl,--(no-)?whole-archive

.SECONDARY: # keep the objects of programs
.PHONY: all lib bin bpf generate demo test test-c test-go e2e test-san lint fuzz peers sim sim-long bench clean help
all: bin ## build everything

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$(V) $<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(LIB_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(if $(LTO),$(Q)$(CC) $(CFLAGS) -flto=2 -r -flinker-output=nolto-rel $(LIB_OBJ) -o $(BUILD)/np.o)
	$(Q)ar rcs $@ $(if $(LTO),$(BUILD)/np.o,$(LIB_OBJ))
lib: $(LIB) $(DPDK_LIB) ## the C library alone

$(BUILD)/csrc/test/unit/%: $(BUILD)/csrc/test/unit/%.o $(UNIT_HELPER_OBJ) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $< $(UNIT_HELPER_OBJ) $(LIB) -lcmocka $(LDLIBS) -o $@
$(BUILD)/np-sim: $(SIM_OBJ) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(SIM_OBJ) $(LIB) $(LDLIBS) -o $@
$(BUILD)/np-script: $(SCRIPT_OBJ) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(SCRIPT_OBJ) $(LIB) $(LDLIBS) -o $@
$(BUILD)/csrc/test/fuzz/%: $(BUILD)/csrc/test/fuzz/%.o $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer $< $(LIB) $(LDLIBS) -o $@
$(BUILD)/perf/lwip.o: CPPFLAGS += -isystem /usr/include/lwip
$(BUILD)/perf/lwip: LDLIBS += -llwip
$(BUILD)/perf/%: $(BUILD)/perf/%.o $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $< $(LIB) $(LDLIBS) -o $@

$(BUILD)/np-relay: $(RELAY_OBJ) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(RELAY_OBJ) $(LIB) $(LDLIBS) -o $@
$(RELAY_TEST): %: %.o $(RELAY_LINK_OBJ) $(LIB)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $< $(RELAY_LINK_OBJ) $(LIB) -lcmocka $(LDLIBS) -o $@
relay: $(BUILD)/np-relay ## the impairment relay of the interop tests
.PHONY: relay

# The XDP programs are committed as objects so that Go builds without clang.
bpf: ## compile the XDP programs again
	$(MAKE) -C csrc/bpf

generate: ## constants of errors, counters, drops and codes for Go
	go run ./scripts/gen

# go build notices neither a changed libnp.a nor changed headers outside the
# package: a stamp header inside it does.
STAMP := dataplane/npc/zz_stamp.h
stamp: $(LIB) $(DPDK_LIB)
	@sum=$$(cat $(LIB) $(DPDK_LIB) csrc/include/np/*.h csrc/include/np/*.def | sha256sum | cut -c1-32); \
	line="#define NP_SOURCE_STAMP \"$$sum\""; \
	[ "$$(cat $(STAMP) 2>/dev/null)" = "$$line" ] || printf '%s\n' "$$line" > $(STAMP)
.PHONY: stamp

bin: stamp ## npd, npctl, nppktgen into build/bin
	@mkdir -p build/bin
	go build $(GOFLAGS_BUILD) -o build/bin/ ./cmd/...

test: test-c test-go ## everything that needs no root, NIC or huge pages
test-c: test-c-bin
	@scripts/test-c.sh $(BUILD)
test-c-bin: $(UNIT_BIN) $(RELAY_TEST) $(if $(SIM_OBJ),$(BUILD)/np-sim) $(if $(SCRIPT_OBJ),$(BUILD)/np-script)
test-go: stamp
	CGO_ENABLED=0 go build ./...
	go test ./...


demo: ## two namespaces, npd in one, load from the other, ten seconds (root)
	@scripts/bootstrap.sh
	@$(MAKE) -s bin
	@scripts/demo.sh

e2e: bin relay ## namespace tests against the kernel's TCP (root)
	@[ "$$(id -u)" = 0 ] || { echo "make e2e: needs root (network namespaces, AF_XDP)" >&2; exit 1; }
	NP_BIN=$(CURDIR)/build/bin NP_RELAY=$(CURDIR)/$(BUILD)/np-relay go test -tags e2e -count=1 -parallel 3 -timeout 25m ./scripts/e2e/...

interop: bin relay ## every cell of the matrix kernel to npd: hours, goes on where it stopped (root)
	@[ "$$(id -u)" = 0 ] || { echo "make interop: needs root (network namespaces, AF_XDP)" >&2; exit 1; }
	NP_BIN=$(CURDIR)/build/bin NP_RELAY=$(CURDIR)/$(BUILD)/np-relay NP_INTEROP_FILE=$(CURDIR)/build/interop.jsonl NP_INTEROP_CELL='$(NP_INTEROP_CELL)' \
	  go test -tags e2e -count=1 -timeout 0 -v -run TestInteropFull ./scripts/e2e/...
NP_SUITE_SEEDS ?= 100
suites: bin relay ## nmap, scapy, tcpreplay, hping3 and tcpkill against npd, NP_SUITE_SEEDS seeds (root)
	@[ "$$(id -u)" = 0 ] || { echo "make suites: needs root (network namespaces, AF_XDP)" >&2; exit 1; }
	NP_BIN=$(CURDIR)/build/bin NP_SUITE_SEEDS=$(NP_SUITE_SEEDS) go test -tags e2e -count=1 -timeout 60m -v -run TestSuite ./scripts/e2e/...
.PHONY: interop suites

VM_RDMA_RUN ?= .
vm-rdma: bin ## RDMA on soft-RoCE in an emulated guest: conformance, NPRO, loss, peers killed (five minutes)
	@mkdir -p build/vm
	go test -c -tags vm -o build/vm/rdma.test ./scripts/vm/rdma
	scripts/vm/run.sh -t 1200 -m 2048 -k "veth rdma_rxe rdma_ucm sch_netem" -- scripts/vm/rdma/endpoints.sh \
	  $(CURDIR)/build/vm/rdma.test -test.v -test.run '$(VM_RDMA_RUN)' -test.timeout 19m
.PHONY: vm-rdma

VM_DPDK_RUN ?= .
vm-dpdk: stamp ## DPDK on emulated NICs behind an IOMMU, in a guest: conformance against the kernel (three minutes)
	@mkdir -p build/vm
	go test -c -tags vm -o build/vm/dpdk.test ./scripts/vm/dpdk
	NP_VM_SECONDS=600 scripts/vm/dpdk/run.sh $(CURDIR)/build/vm/dpdk.test -test.v -test.run '$(VM_DPDK_RUN)' -test.timeout 9m
	NP_VM_IOMMU_BITS=39 scripts/vm/dpdk/run.sh $(CURDIR)/build/vm/dpdk.test -test.v -test.run 'TestNICs/.*/client/plain/nettest/Ping' -test.timeout 4m
.PHONY: vm-dpdk

.PHONY: man
man: bin ## manual pages of npctl, from its commands, into build/man
	@mkdir -p build/man
	build/bin/npctl man build/man

.PHONY: vm-nic
vm-nic: bin ## npctl nic bind with a real driver, npd on DPDK with it, pulled under load, in an emulated guest (three minutes)
	scripts/vm/nic-bind.sh build/bin/npctl build/bin/npd

test-san: ## C under ASan + UBSan and TSan, Go under -race
	$(MAKE) V=san test-c
	$(MAKE) V=tsan test-tsan
	$(MAKE) stamp
	go test -race ./...
# Only what has more than one thread is worth TSan's time.
TSAN_BIN := $(filter %/test_ring %/test_plane %/test_core %/test_core_claim %/test_capture,$(UNIT_BIN))
test-tsan: $(TSAN_BIN)
	@set -e; for t in $^; do echo "tsan $$t"; $$t >/dev/null; done
test-tsan-bin: $(TSAN_BIN)
# What test-san and fuzz compile, and nothing run: CI has it done while other tests wait.
san-fuzz-bin: stamp
	$(MAKE) V=san test-c-bin
	$(MAKE) V=tsan test-tsan-bin
	$(MAKE) V=fuzz fuzz-bin
	go test -race -exec true ./... >/dev/null
	@scripts/fuzz.sh build

# A module of its own: see scripts/peers/README.md.
PEERS ?= $(patsubst scripts/peers/%/main.go,%,$(wildcard scripts/peers/*/main.go))
peers: ## servers of others that some tests run against, into build/peers (PEERS="etcd …": these alone)
	@mkdir -p build/peers
	cd scripts/peers && go build -trimpath -ldflags='-s -w' -o ../../build/peers/ $(PEERS:%=./%)

lint: lib ## rules of the repository that a machine can check
	go test -tags lint -count=1 ./scripts/lint

FUZZ_TIME ?= 10
fuzz: ## every fuzz target for FUZZ_TIME seconds (default 10)
	$(MAKE) V=fuzz fuzz-bin
	@scripts/fuzz.sh $(FUZZ_TIME)
fuzz-bin: $(FUZZ_BIN)

sim: $(BUILD)/np-sim ## whole stacks on a virtual clock: make sim SEED=n
	@$(BUILD)/np-sim $(if $(SEED),--seed $(SEED),--seeds csrc/test/sim/seeds.txt) $(SIM_ARGS)

SIM_FROM ?= 1
SIM_TIME ?= $(if $(SIM_SEEDS),,3600)
sim-long: $(BUILD)/np-sim ## seeds upward from SIM_FROM on all cores, SIM_TIME seconds (default 3,600) or SIM_SEEDS of them, those that failed at the end
	@$(BUILD)/np-sim --from $(SIM_FROM) $(if $(SIM_SEEDS),--count $(SIM_SEEDS)) $(if $(SIM_TIME),--time $(SIM_TIME)) --jobs $$(nproc) --keep-going $(SIM_ARGS)

bench: bin $(BENCH_BIN) ## print the figures of perf/ (root for the veth part)
	@perf/run.sh
bench-bin: $(BENCH_BIN)

.PHONY: test-c-bin test-tsan test-tsan-bin san-fuzz-bin fuzz-bin bench-bin

-include $(LIB_OBJ:.o=.d) $(DPDK_OBJ:.o=.d) $(UNIT_HELPER_OBJ:.o=.d) $(SIM_OBJ:.o=.d) $(SCRIPT_OBJ:.o=.d) $(UNIT_BIN:%=%.d) $(FUZZ_BIN:%=%.d) $(BENCH_BIN:%=%.d) $(RELAY_OBJ:.o=.d) $(RELAY_TEST:%=%.d)

clean: ## remove build/
	rm -rf build
