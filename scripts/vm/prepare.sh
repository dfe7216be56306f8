#!/usr/bin/env bash
# Makes what run.sh boots: QEMU and Debian's kernel, unpacked from packages into NP_VM_DIR
# (default: $HOME/.cache/np-vm) and installed nowhere, and a small initial RAM disk. Needs
# no root. Does nothing when all of it is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${NP_VM_DIR:-$HOME/.cache/np-vm}
lib=/usr/lib/x86_64-linux-gnu
# What the guest loads before it sees this machine's files; all else comes by modprobe.
first_modules=(virtio_pci virtio_console 9pnet_virtio 9p overlay)

say() { echo "vm/prepare: $*" >&2; }
for tool in apt-get dpkg-deb xz; do
  command -v "$tool" >/dev/null || { say "needs $tool (a Debian machine)"; exit 1; }
done
mkdir -p "$dir/debs/partial" "$dir/host"
exec 9>"$dir/lock"
flock 9
cd "$dir"

download() {
  apt-get -y -q --download-only --no-install-recommends -o "Dir::Cache::archives=$dir/debs" \
    -o Debug::NoLocking=1 install qemu-system-x86 seabios busybox-static kmod cpio >apt.log 2>&1 \
    && version=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-//p' | head -n 1) \
    && [[ -n $version ]] && (cd debs && apt-get -q download "linux-image-$version" >>../apt.log 2>&1)
}
if [[ ! -s kernel-version ]]; then
  say "downloading QEMU and a kernel"
  if ! download; then
    if [[ $(id -u) == 0 ]]; then apt-get update -q >apt.log 2>&1 || true; fi
    download || { tail -n 5 apt.log >&2; say "packages could not be downloaded (log: $dir/apt.log); run apt-get update"; exit 1; }
  fi
  for d in debs/*.deb; do
    case $d in
      */linux-image-*) rm -rf kernel && dpkg-deb -x "$d" kernel ;;
      *) dpkg-deb -x "$d" host ;;
    esac
  done
  rm -rf debs/*.deb
  echo "$version" >kernel-version
fi
version=$(<kernel-version)
modules=kernel/lib/modules/$version
export LD_LIBRARY_PATH=$dir/host$lib:$dir/host/lib/x86_64-linux-gnu
if [[ ! -s $modules/modules.dep ]]; then
  ln -sf kmod host/bin/depmod # kmod is what its caller calls it
  host/bin/depmod -b kernel "$version"
fi

# The kernel as an ELF file, which QEMU enters directly: unpacking it in emulation takes
# longer than booting. Offsets: the x86 boot protocol's header.
u32() { od -An -tu4 -j "$2" -N 4 "$1" | tr -d ' '; }
if [[ ! -s vmlinux ]]; then
  packed=kernel/boot/vmlinuz-$version
  sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$packed" | tr -d ' ')
  [[ $sectors != 0 ]] || sectors=4
  start=$(((sectors + 1) * 512 + $(u32 "$packed" $((0x248)))))
  length=$(u32 "$packed" $((0x24c)))
  dd if="$packed" of=payload bs=1M iflag=skip_bytes,count_bytes skip="$start" count="$length" status=none
  case $(od -An -tx1 -N 4 payload | tr -d ' ') in
    fd377a58) xz -dc --single-stream <payload >vmlinux.part ;;
    28b52ffd) zstd -dcq <payload >vmlinux.part ;;
    1f8b08*) gzip -dcq <payload >vmlinux.part || [[ -s vmlinux.part ]] ;;
    *) say "the kernel is packed in a way that this script does not know"; exit 1 ;;
  esac
  rm -f payload
  mv vmlinux.part vmlinux
fi

# A module's files, dependencies first, as the kernel package's table has them.
files_of() {
  local line
  line=$(grep -E "/$1\.ko:" "$modules/modules.dep") || { say "the kernel has no module $1"; exit 1; }
  tr ' ' '\n' <<<"${line#*:}" | grep . | tac || true
  echo "${line%%:*}"
}
if [[ ! -s initrd || $here/init.sh -nt initrd || $here/prepare.sh -nt initrd ]]; then
  rm -rf ird
  mkdir -p ird/{bin,mods,proc,sys,dev,lower,up,new,exchange}
  cp host/bin/busybox ird/bin/
  ln -sf busybox ird/bin/modprobe
  n=100
  for m in "${first_modules[@]}"; do files_of "$m"; done | awk '!seen[$0]++' >modules.list
  while read -r f; do
    n=$((n + 1))
    cp "$modules/$f" "ird/mods/$n-$(basename "$f")"
  done <modules.list
  install -m 755 "$here/init.sh" ird/init
  (cd ird && find . | ../host/bin/cpio -o -H newc --quiet) >initrd.part
  mv initrd.part initrd
fi
