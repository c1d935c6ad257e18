# Makes a machine of Debian for qemu: machine.sh <mirror> <directory for the kernel, its initrd and the disk> <suite> <packages>.
# Runs in a mount namespace of its own; works in a tmpfs that goes with it.
set -eu
mirror=$1 out=$2 work=$2/work suite=$3 packages=$4
mkdir "$work"
mount -t tmpfs -o size=4g,mode=755 orlop-machine "$work"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
root=$work/root

debootstrap --variant=minbase \
  --include=systemd,systemd-sysv,dbus,udev,kmod,iproute2,procps,linux-image-cloud-amd64,"$packages" "$suite" "$root" "$mirror"
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
cp "$root"/boot/vmlinuz-* "$out/kernel"
cp "$root"/boot/initrd.img-* "$out/initrd"
rm -rf "$root"/boot/* "$root"/initrd.img* "$root"/vmlinuz*

echo orlop-machine > "$root/etc/hostname"
echo '127.0.0.1 localhost orlop-machine' > "$root/etc/hosts"
: > "$root/etc/machine-id"
cat > "$root/etc/fstab" <<X
/dev/vda / ext4 defaults,noatime 0 1
/dev/vdb /opt/orlop ext4 ro 0 2
X
mkdir -p "$root/opt/orlop"
for unit in systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf"

# A shell for whoever is at the other end of the second serial port. It says when it is there.
cat > "$root/etc/systemd/system/port.service" <<X
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw -echo; echo orlop-port > /dev/ttyS1; cat /dev/ttyS1 | exec bash > /dev/ttyS1 2>&1'
Environment=HOME=/root KUBECONFIG=/var/lib/orlop/admin.kubeconfig
Restart=always
RestartSec=0.2
[Install]
WantedBy=multi-user.target
X
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../port.service "$root/etc/systemd/system/multi-user.target.wants/port.service"

truncate -s 3G "$out/disk"
mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$root" "$out/disk"
umount "$work"
rmdir "$work"
