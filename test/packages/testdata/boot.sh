#!/bin/bash
# boot.sh DIR COMMAND...: as process 1 of namespaces of its own, makes this machine's file system over again, so that nothing of it is
# written to, and runs COMMAND as its process 1. DIR is empty, and has what the system is to find in /srv/given below given.
set -e
[ $$ = 1 ] || { echo "this is not process 1 of a namespace" >&2; exit 1; }
dir=$1 root=$1/root
shift
mount --make-rprivate /
mkdir -p "$root" "$dir/rw"
mount -t tmpfs none "$dir/rw"
mkdir "$dir/rw/up" "$dir/rw/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/rw/up,workdir=$dir/rw/work" "$root"
mkdir -p "$root/srv/given"
cp -r "$dir/given/." "$root/srv/given"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run" -o mode=755
mount -t tmpfs tmpfs "$root/tmp" -o mode=1777
if mount -t tmpfs tmpfs "$root/sys/fs/cgroup" -o mode=755 && mkdir "$root/sys/fs/cgroup/systemd" && mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"; then
	:
else
	umount "$root/sys/fs/cgroup" || true
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi
mount -t tmpfs tmpfs "$root/dev" -o mode=755
for d in null zero full random urandom tty; do
	: >"$root/dev/$d"
	mount --bind "/dev/$d" "$root/dev/$d"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
mount -t tmpfs tmpfs "$root/dev/shm" -o mode=1777
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
: >"$root/dev/console"
# Nothing that this machine runs is run there: no unit of its own is wanted.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/mesh "$root"/var/lib/mesh "$root"/srv/mesh
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
: >"$root/etc/machine-id"
: >"$root/etc/fstab"
cd "$root"
mkdir -p old
pivot_root . old
umount -l /old
export container=test
exec "$@"
