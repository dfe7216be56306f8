# libnpdpdk.a: csrc/io/dpdk and what of core uses it, with DPDK itself as one object inside, so that whoever links it
# needs to know nothing of DPDK, and binaries start where DPDK is not installed. Without DPDK (or with
# DPDK= ) it holds none.c, which refuses. Programs that open no DPDK device don't link it.
#
# V names the variant as in the Makefile, whose variables these are.
DPDK_ALL_SRC := $(wildcard csrc/io/dpdk/*.c) csrc/core/dpdk.c
DPDK_SRC := $(if $(DPDK),$(filter-out csrc/io/dpdk/none.c,$(DPDK_ALL_SRC)),csrc/io/dpdk/none.c csrc/core/dpdk.c)
DPDK_OBJ := $(DPDK_SRC:%.c=$(BUILD)/%.o)
DPDK_LIB := $(BUILD)/libnpdpdk.a

# Drivers: NICs (by PCI), guests' NICs, and virtual devices. Left out: tap, which takes signals from its process
# (io/raw has TAP ports); mlx5, which would tie the binaries to libibverbs and libmlx5.
DPDK_DRIVERS := bus_pci bus_vdev mempool_ring \
  net_e1000 net_ixgbe net_i40e net_iavf net_ice net_ena net_virtio net_vmxnet3 \
  net_af_packet net_af_xdp net_memif net_null net_pcap net_ring net_vhost
DPDK_LIBDIR := $(if $(DPDK),$(shell pkg-config --variable=libdir libdpdk))
DPDK_INC := $(if $(DPDK),$(shell pkg-config --cflags-only-I libdpdk | sed 's/-I/-isystem /g'))
# What of the rest they need, the linker picks.
DPDK_REST = $(filter-out $(DPDK_LIBDIR)/librte_net_% $(DPDK_LIBDIR)/librte_bus_% $(DPDK_LIBDIR)/librte_crypto_% $(DPDK_LIBDIR)/librte_event_%,\
  $(wildcard $(DPDK_LIBDIR)/librte_*.a)) $(DPDK_LIBDIR)/librte_net.a \
  $(wildcard $(addprefix $(DPDK_LIBDIR)/,libnuma.a libxdp.a libbpf.a libelf.a libz.a libbsd.a libmd.a libzstd.a))
DPDK_ONE := build/dpdk/dpdk.o

# memif's driver gets our munmap, close and sendmsg: see quiet.c.
$(DPDK_ONE): csrc/io/dpdk/dpdk.mk
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)objcopy --redefine-sym munmap=np_dpdk_munmap --redefine-sym close=np_dpdk_close \
	  --redefine-sym sendmsg=np_dpdk_sendmsg $(DPDK_LIBDIR)/librte_net_memif.a $(@D)/memif.a
	$(Q)ld -r -o $@.part --whole-archive $(@D)/memif.a $(patsubst %,$(DPDK_LIBDIR)/librte_%.a,$(filter-out net_memif,$(DPDK_DRIVERS))) \
	  --no-whole-archive --start-group $(DPDK_REST) --end-group
	$(Q)objcopy --strip-debug $@.part && mv $@.part $@

# DPDK's headers need SSE4.2 at least; variants without an architecture of their own get that.
$(DPDK_OBJ): CPPFLAGS += $(DPDK_INC) -DALLOW_EXPERIMENTAL_API
$(DPDK_OBJ): CFLAGS += $(if $(filter release,$(V)),,$(if $(filter x86_64,$(shell uname -m)),-march=x86-64-v2))

$(DPDK_LIB): $(DPDK_OBJ) $(if $(DPDK),$(DPDK_ONE))
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^

# Tests and benchmarks that open DPDK devices.
DPDK_PROGRAMS := $(BUILD)/csrc/test/unit/test_dpdk $(BUILD)/perf/bench_ports
$(DPDK_PROGRAMS): $(DPDK_LIB)
$(DPDK_PROGRAMS): LDLIBS := $(DPDK_LIB) $(BUILD)/libnp.a $(LDLIBS) -lm
