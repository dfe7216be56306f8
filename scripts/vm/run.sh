#!/usr/bin/env bash
# Runs a command in a throw-away guest: Debian's kernel, emulated (no KVM needed), on this
# machine's own files, read-only under an overlay in memory. What the command writes vanishes, but for
# the folder of -w. Its output and exit status become this script's.
#
#   run.sh [-m MIB] [-c CPUS] [-t SECONDS] [-w FOLDER] [-k "MODULES"] [-M MACHINE] [-q "QEMU ARGS"] [-a "KERNEL ARGS"] -- COMMAND...
#
# The command gets this environment, its working folder, root and a network that has lo only. Status
# 124: the guest gave none (time-out, panic); its console follows on stderr. prepare.sh runs first by itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${NP_VM_DIR:-$HOME/.cache/np-vm}
mib=1024 cpus=2 seconds=120 share='' modules='' machine=q35 qemu_args='' kernel_args=''
while getopts m:c:t:w:k:M:q:a: option; do
  case $option in
    m) mib=$OPTARG ;;
    c) cpus=$OPTARG ;;
    t) seconds=$OPTARG ;;
    w) share=$(realpath "$OPTARG") ;;
    k) modules=${OPTARG// /,} ;;
    M) machine=$OPTARG ;;
    q) qemu_args=$OPTARG ;;
    a) kernel_args=$OPTARG ;;
    *) sed -n 's/^# *run.sh/usage: run.sh/p' "$0" >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
(($# > 0)) || { echo "vm/run: no command" >&2; exit 2; }
"$here/prepare.sh"

run=$(mktemp -d "$dir/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
{
  export -p
  printf 'cd %q\n' "$PWD"
  # shellcheck disable=SC2016 # the guest's PATH is meant
  printf 'export PATH=$PATH:/usr/sbin:/sbin:%q\n' "$dir/host/usr/bin:$dir/host/bin"
  printf 'exec'
  printf ' %q' "$@"
  echo
} >"$run/command"

exec 3> >(cat)
out=$!
exec 4> >(cat >&2)
err=$!
empty=$dir/empty
mkdir -p "$empty"
append="console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off nokaslr no_timer_check cryptomgr.notests random.trust_cpu=on"
append+=" rcupdate.rcu_expedited=1 np.now=$(date +%s) np.kernel=$dir/kernel np.share=$share np.modules=$modules $kernel_args"
lib=usr/lib/x86_64-linux-gnu
# shellcheck disable=SC2086 # -q holds several arguments
LD_LIBRARY_PATH=$dir/host/$lib:$dir/host/lib/x86_64-linux-gnu timeout --foreground "$seconds" \
  "$dir/host/usr/bin/qemu-system-x86_64" -L "$dir/host/usr/share/qemu" -L "$dir/host/usr/share/seabios" \
  -M "$machine" -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$mib" \
  -nodefaults -no-user-config -display none -no-reboot -kernel "$dir/vmlinux" -initrd "$dir/initrd" -append "$append" \
  $qemu_args -device virtio-serial-pci \
  -chardev file,id=out,path=/dev/fd/3,append=on -device virtserialport,chardev=out,name=out \
  -chardev file,id=err,path=/dev/fd/4,append=on -device virtserialport,chardev=err,name=err \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  -virtfs local,path="$run",mount_tag=exchange,security_model=none \
  -virtfs local,path="${share:-$empty}",mount_tag=share,security_model=none \
  -serial "file:$run/console" </dev/null 2>"$run/qemu" || true
exec 3>&- 4>&-
wait "$out" "$err" # all that the guest wrote is out before its status

if [[ -s $run/status ]]; then
  exit "$(<"$run/status")"
fi
echo "vm/run: the guest gave no exit status within $seconds s; QEMU and the console said:" >&2
tail -n 5 "$run/qemu" >&2
tail -n 25 "$run/console" >&2 || true
exit 124
