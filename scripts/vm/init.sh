#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first process: mounts the host's files read-only under an overlay in memory,
# runs the command of run.sh there and turns the machine off. Kernel arguments np.*=: what run.sh wants.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
off() {
  $b sync
  $b poweroff -f
}
die() {
  echo "vm/init: $*" >/dev/console
  off
}
for m in /mods/*.ko; do $b insmod "$m" || die "module $m"; done
share=""
modules=""
kernel=""
for word in $($b cat /proc/cmdline); do
  case $word in
    np.share=*) share=${word#*=} ;;
    np.modules=*) modules=${word#*=} ;;
    np.kernel=*) kernel=${word#*=} ;;
    np.now=*) $b date -s "@${word#*=}" >/dev/null ;;
  esac
done
for p in /sys/class/virtio-ports/*; do
  read -r name <"$p/name"
  $b ln -s "/dev/${p##*/}" "/dev/port-$name"
done
$b ln -s /proc/self/fd /dev/fd
$b ln -s /proc/self/fd/0 /dev/stdin
$b ln -s /proc/self/fd/1 /dev/stdout
$b ln -s /proc/self/fd/2 /dev/stderr
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs tmpfs /dev/shm

plan9="trans=virtio,version=9p2000.L,msize=512000"
$b mount -t 9p -o "$plan9,ro,cache=loose" host /lower || die "the host's files"
$b mount -t 9p -o "$plan9" exchange /exchange || die "the exchange folder"
$b mount -t tmpfs -o size=75% tmpfs /up
$b mkdir /up/upper /up/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/up/upper,workdir=/up/work overlay /new || die "overlay"
for d in proc sys dev; do $b mount --bind "/$d" "/new/$d"; done
$b mount --bind /dev/pts /new/dev/pts
$b mount --bind /dev/shm /new/dev/shm
$b mount -t tmpfs tmpfs /new/run
$b mkdir -p /new/lib/modules /lib /sbin
$b mount --bind "/lower/$kernel/lib/modules" /new/lib/modules
$b ln -s "/lower/$kernel/lib/modules" /lib/modules
$b ln -s $b /sbin/modprobe # what the kernel itself asks for is loaded in this root
if [ -n "$share" ]; then
  $b mount -t 9p -o "$plan9" share "/new/$share" || die "$share"
fi
for m in $(echo "$modules" | $b tr , ' '); do $b modprobe "$m" || die "modprobe $m"; done
$b mkdir -p /new/run/np-vm
$b mount --bind /exchange /new/run/np-vm
$b ip link set lo up
$b chroot /new /bin/bash /run/np-vm/command >/dev/port-out 2>/dev/port-err </dev/null
echo $? >/exchange/status
off
