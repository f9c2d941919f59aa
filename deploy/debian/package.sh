#!/usr/bin/env bash
# Makes the three Debian packages of one architecture, the same ones whenever the input is the same. build.sh calls it:
#
#   package.sh VERSION ARCHITECTURE PROGRAMS PAGES OUT
#
# PROGRAMS is the directory of the programs, PAGES that of their manual pages and completions, OUT takes the packages.
# SOURCE_DATE_EPOCH is the time of all files. A package neither starts nor restarts a program: a node that answers is
# drained first, by whoever upgrades it. None of them ever removes /etc/mesh, /var/lib/mesh or /srv/mesh, not when it is purged.
set -euo pipefail
version=$1 architecture=$2 programs=$3 pages=$4 out=$5
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

put() { install -D -m "$1" "$2" "$root/$3"; }

# unit NAME puts a unit, whose program is in /usr/bin when it comes by a package.
unit() {
	mkdir -p "$root/usr/lib/systemd/system"
	sed 's,/usr/local/bin/,/usr/bin/,' "$top/deploy/systemd/$1" >"$root/usr/lib/systemd/system/$1"
}

# only WORDS FILE NAME puts those lines of a sysusers or tmpfiles file that a package needs: what all share, and its user's.
only() {
	mkdir -p "$root/$(dirname "$3")"
	grep -E "$1" "$2" >"$root/$3"
}

# completions NAME puts those of a program, where each shell looks for them.
completions() {
	put 644 "$pages/$1.bash" "usr/share/bash-completion/completions/$1"
	put 644 "$pages/$1.zsh" "usr/share/zsh/vendor-completions/_$1"
	put 644 "$pages/$1.fish" "usr/share/fish/vendor_completions.d/$1.fish"
}

manual() { # NAME.SECTION
	mkdir -p "$root/usr/share/man/man${1##*.}"
	gzip -9n <"$pages/$1" >"$root/usr/share/man/man${1##*.}/$1.gz"
}

# scripts UNIT... writes the scripts of a package. With a DPKG_ROOT the system is not this one, and nothing of it runs.
scripts() {
	cat >"$root/DEBIAN/postinst" <<-EOF
		#!/bin/sh
		set -e
		if [ "\$1" = configure ]; then
			systemd-sysusers \${DPKG_ROOT:+--root="\$DPKG_ROOT"} $name.conf
			systemd-tmpfiles \${DPKG_ROOT:+--root="\$DPKG_ROOT"} --create $name.conf
			if [ -z "\$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
				systemctl daemon-reload
				systemctl restart systemd-sysctl.service || true
			fi
		fi
	EOF
	cat >"$root/DEBIAN/prerm" <<-EOF
		#!/bin/sh
		set -e
		if [ "\$1" = remove ] && [ -z "\$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
			systemctl disable --now $*
		fi
	EOF
	cat >"$root/DEBIAN/postrm" <<-EOF
		#!/bin/sh
		set -e
		if [ -z "\$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
			systemctl daemon-reload
		fi
		if [ "\$1" = purge ]; then
			echo "$name: $keeps stays: remove it only if this host will never be in the mesh again"
		fi
	EOF
	chmod 755 "$root"/DEBIAN/p*
}

# pack DEPENDS DESCRIPTION... makes the package of root.
pack() {
	mkdir -p "$root/usr/share/doc/$name"
	cp "$top/LICENSE" "$root/usr/share/doc/$name/copyright"
	gzip -9n <"$top/CHANGELOG.md" >"$root/usr/share/doc/$name/changelog.gz"
	(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
	cat >"$root/DEBIAN/control" <<-EOF
		Package: $name
		Version: $version
		Architecture: $architecture
		Maintainer: coredns-anycast <https://github.com/coredns-anycast/coredns-anycast>
		Homepage: https://github.com/coredns-anycast/coredns-anycast
		Section: net
		Priority: optional
		Installed-Size: $(($(cd "$root" && find usr -type f -printf '%s\n' | awk '{n += $1} END {print n}') / 1024))
		Depends: systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
		$1
	EOF
	find "$root" -type d -exec chmod 755 {} + # whatever the umask is here
	find "$root/usr" -type f ! -path '*/bin/*' -exec chmod 644 {} +
	# One level of gzip and one thread: the octets hang on nothing else.
	dpkg-deb --root-owner-group --threads-max=1 -Zgzip -z6 --build "$root" "$out/${name}_${version}_$architecture.deb" >/dev/null
}

begin() {
	name=$1 root=$work/$1
	mkdir -p "$root/DEBIAN"
}

umask 022

begin coredns-anycast
keeps=/var/lib/mesh
put 755 "$programs/coredns" usr/bin/coredns
unit coredns.service
only '^g mesh |^u coredns ' "$top/deploy/systemd/sysusers.conf" usr/lib/sysusers.d/$name.conf
only '^[dz] .* (root|coredns) ' "$top/deploy/systemd/tmpfiles.conf" usr/lib/tmpfiles.d/$name.conf
put 644 "$top/deploy/debian/sysctl.conf" usr/lib/sysctl.d/50-$name.conf
manual coredns-sharedunicast.7
manual coredns-meshsync.7
put 644 "$top/Corefile.example" usr/share/doc/$name/examples/Corefile
scripts coredns.service
pack "Suggests: anycast-sidecar
Conflicts: coredns
Description: CoreDNS for a node of an anycast mesh
 CoreDNS with the plugins sharedunicast and meshsync: an authoritative name
 server that answers on a shared-unicast address (RFC 3258) from signed
 releases, switches to a release at one instant with all other nodes, never
 goes back, and is silent rather than wrong."

begin anycast-sidecar
keeps=/var/lib/mesh
put 755 "$programs/anycast-sidecar" usr/bin/anycast-sidecar
unit anycast-sidecar.service
only '^g mesh |^u anycast-sidecar ' "$top/deploy/systemd/sysusers.conf" usr/lib/sysusers.d/$name.conf
only '^[dz] .* (root|anycast-sidecar) ' "$top/deploy/systemd/tmpfiles.conf" usr/lib/tmpfiles.d/$name.conf
manual anycast-sidecar.8
completions anycast-sidecar
put 644 "$top/sidecar.example.yaml" usr/share/doc/$name/examples/sidecar.yaml
put 644 "$top/deploy/systemd/igp.conf" usr/share/doc/$name/examples/igp.conf
scripts anycast-sidecar.service
pack "Suggests: coredns-anycast, chrony
Description: sidecar of an anycast DNS node
 Announces the node's route by BGP or an IGP while its name server is right,
 certifies the clock, mirrors releases from the distribution host, and gives
 the node's word."

begin meshctl
keeps=/srv/mesh
put 755 "$programs/meshctl" usr/bin/meshctl
unit meshctl-serve.service
only '^u meshctl ' "$top/deploy/systemd/sysusers.conf" usr/lib/sysusers.d/$name.conf
mkdir -p "$root/usr/lib/tmpfiles.d"
echo 'd /srv/mesh 0700 meshctl meshctl' >"$root/usr/lib/tmpfiles.d/$name.conf"
manual meshctl.8
completions meshctl
for example in meshctl sources checks; do
	put 644 "$top/$example.example.yaml" usr/share/doc/$name/examples/$example.yaml
done
for file in "$top"/deploy/prometheus/*.yaml "$top"/deploy/grafana/*.json; do
	put 644 "$file" "usr/share/doc/$name/examples/$(basename "$file")"
done
scripts meshctl-serve.service
pack "Suggests: chrony
Description: distribution host of an anycast DNS mesh
 Checks, signs and publishes releases of zones, has all nodes switch to them
 at one instant, and renews the lease by which they answer."
