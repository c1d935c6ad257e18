# Makes the layers of the Debian images: debian.sh <mirror> <directory for the layers>.
# Runs in a mount namespace of its own; works in a tmpfs that goes with it.
set -eu
mirror=$1 out=$2 work=$2/work suite=bookworm
mkdir "$work"
mount -t tmpfs -o size=4g,mode=755 orlop-images "$work"
cd "$work"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# $1: name of the layer; the directory is the current one.
pack() {
  tar --sort=name --numeric-owner --mtime=@0 --exclude=./var/lib/apt/lists/* --exclude=./var/cache/apt/* \
    --exclude=./var/log/apt --exclude=./var/log/dpkg.log --exclude=./etc/resolv.conf -cf "$work/$1.tar" .
  sha256sum "$work/$1.tar" | cut -d' ' -f1 > "$out/$1.diffid"
  gzip -1n < "$work/$1.tar" > "$out/$1.tar.gz"
  rm "$work/$1.tar"
}

debootstrap --variant=minbase "$suite" base "$mirror"
# What images do without, from here on for packages too; and no server is started while it is installed.
for dir in doc man locale info; do echo "path-exclude=/usr/share/$dir/*"; done > base/etc/dpkg/dpkg.cfg.d/images
echo force-unsafe-io > base/etc/dpkg/dpkg.cfg.d/fast
printf '#!/bin/sh\nexit 101\n' > base/usr/sbin/policy-rc.d
chmod +x base/usr/sbin/policy-rc.d
rm -rf base/usr/share/doc/* base/usr/share/man/* base/usr/share/locale/* base/usr/share/info/* base/var/cache/apt/archives/*.deb
mkdir base/etc/postgresql-common
echo 'create_main_cluster = false' > base/etc/postgresql-common/createcluster.conf
rm -f base/etc/hostname
(cd base && find . | sort) > base.list
(cd base && pack debian) &

# $1: layer, $2: packages, $3: what else to do inside.
layer() {
  mkdir "$1" "$1.work" "$1.root"
  mount -t overlay overlay -o "lowerdir=base,upperdir=$1,workdir=$1.work,redirect_dir=off,metacopy=off" "$1.root"
  chroot "$1.root" sh -euc "apt-get install -y --no-install-recommends $2; $3"
  rm -f "$1.root"/var/cache/apt/*.bin
  (cd "$1.root" && find . | sort) > "$1.list"
  umount "$1.root"
  # What the base has and the result has not, in the words of layers.
  find "$1" -type c -delete
  comm -23 base.list "$1.list" | while read -r gone; do
    dir="$1/${gone%/*}"
    [ -d "$dir" ] && touch "$dir/.wh.${gone##*/}"
  done
  (cd "$1" && pack "$1")
}
# Logs go where a container's output goes.
layer nginx nginx-light 'ln -sf /dev/stdout /var/log/nginx/access.log; ln -sf /dev/stderr /var/log/nginx/error.log'
layer redis redis-server 'install -d -o redis -g redis /data; rm /etc/motd'
layer postgres postgresql 'ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin'
wait
