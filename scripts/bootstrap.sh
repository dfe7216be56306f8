#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian 12, and nothing
# that is already there. Run as root: `scripts/bootstrap.sh`.
# Go itself (see go.mod for the version) must already be on the PATH.
set -euo pipefail

# Package            what needs it
packages=(
  gcc make           # csrc, cgo
  pkg-config         # cgo flags
  clang              # XDP programs, fuzzers, sanitizer builds
  llvm               # llvm-strip for the XDP objects
  libclang-rt-14-dev # ASan, UBSan, libFuzzer run-time
  libipsec-mb-dev    # AEAD records in batches
  libssl-dev         # portable AEAD fallback; comparison in perf/
  liblz4-dev         # NPRO compression
  libzstd-dev        # NPRO compression
  libpcap-dev        # capture filters in tcpdump's language
  libdpdk-dev        # DPDK ports; optional: without it they are left out
  libcmocka-dev      # C unit tests
  libibverbs-dev     # RDMA: headers; the libraries are loaded at run time
  librdmacm-dev      # RDMA's connection manager
  ibverbs-providers  # what the guest of make vm-rdma loads
  linux-libc-dev     # AF_XDP and BPF headers
  libbpf-dev         # bpf_helpers.h for the XDP programs
  iproute2           # namespaces and veth pairs of demo and e2e
  ethtool            # offloads of the kernel peer
  iputils-ping       # ping and ping6 in e2e
  procps             # sysctl
  tcpdump            # reads our captures back in e2e
  curl               # HTTP client against net/http on our stack in e2e
  jq                 # perf/run.sh
  nginx-light        # these four: backend, peers and clients of the gateway, in e2e and perf/
  haproxy
  wrk
  nghttp2-client
  ngtcp2-client      # HTTP/3 (gtlsclient), against the gateway
  slowhttptest       # slow clients, against the gateway
  shellcheck         # lint of scripts
  nmap               # these five: other people's tools against npd in e2e
  python3-scapy
  hping3
  tcpreplay
  dsniff             # tcpkill
)

missing=()
for p in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${Status}' "$p" 2>/dev/null || true)
  [[ $status == "install ok installed" ]] || missing+=("$p")
done

if ((${#missing[@]})); then
  if [[ $(id -u) != 0 ]]; then
    echo "bootstrap: missing packages: ${missing[*]}" >&2
    echo "bootstrap: run as root: scripts/bootstrap.sh" >&2
    exit 1
  fi
  echo "bootstrap: installing ${missing[*]}"
  log=$(mktemp)
  if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "bootstrap: apt-get could not install: ${missing[*]} (log: $log)" >&2
    exit 1
  fi
  rm -f "$log"
fi

if ! command -v go >/dev/null; then
  want=$(awk '$1=="go"{print $2}' "$(dirname "$0")/../go.mod")
  echo "bootstrap: go is not on the PATH; install Go $want or newer" >&2
  exit 1
fi
cd "$(dirname "$0")/.."
go mod download
echo "bootstrap: ready"
