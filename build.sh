#!/usr/bin/env bash
# Builds and tests coredns-anycast. Needs Go (the version in go.mod), nothing else; tests want daemons too, see below.
#
#   ./build.sh                    bin/coredns, bin/anycast-sidecar, bin/meshctl
#   ./build.sh demo [OPTION…]     these, and with them a mesh of three nodes on this machine (--once: end after it)
#   ./build.sh test [PATTERN]     every test; as root on Debian it installs the daemons that the tests run against
#   ./build.sh bench [NAMES]      as root: speed and memory beside other name servers, what a release costs a mesh; see CONTRIBUTING.md
#   ./build.sh sim [OPTION…]      histories of simulated meshes (-seeds N, -from S, -nodes N, -class C, -story; see docs/proof.md)
#   ./build.sh daemons            installs the daemons only
#   ./build.sh image              the programs in a container image, by podman, buildah or docker
#   ./build.sh dist [ARCH…]       dist/: Debian packages, archives, SBOM and checksums, for amd64 and arm64; on Debian
set -euo pipefail
cd "$(dirname "$0")"
# For all, so that tests compile nothing that the programs have compiled. grpcnotrace: gRPC, which GoBGP and CoreDNS bring, does not
# link its pages of traces; with them the linker keeps every method of everything, 5 MB in anycast-sidecar alone.
export CGO_ENABLED=0 GOFLAGS="-trimpath -tags=grpcnotrace ${GOFLAGS:-}"

# What Debian calls the real routers, clocks and name servers that the tests talk to.
daemons="bash-completion bind9 bind9-dnsutils bind9-utils bird2 chromium chrony curl dnsperf fonts-inter frr gcc git gobgpd groff-base iproute2 knot knot-dnssecutils knot-dnsutils knot-resolver ldnsutils libc6-dev nftables nsd openbgpd openssl pdns-backend-bind pdns-backend-sqlite3 pdns-server podman procps prometheus runc spin sqlite3 systemd tcpdump unbound xz-utils"
commands="dh_bash-completion named delv dnsperf dnssec-signzone bird /usr/sbin/bgpd bgpctl chromium chronyd curl /usr/lib/frr/bgpd gcc git gobgp gobgpd groff ip knotd kresd kzonecheck kzonesign ldns-signzone named-compilezone nft nsd openssl pdns_server podman prometheus promtool runc spin sqlite3 systemd-analyze tcpdump unbound xz"

made=() # files to be removed at the end
trap 'rm -f "${made[@]}"' EXIT

version() { git describe --tags --always --dirty 2>/dev/null || echo dev; }

# lean is where no query passes but by QUIC: commands, the sidecar, Corefiles, BGP, gRPC, S3, ACME, TUF. Functions of these are not inlined into each other, which takes 1 MB
# off the three programs.
lean=(github.com/coredns-anycast/coredns-anycast/{cmd/meshctl,sidecar,internal/{adopt,assemble,bucket,corefiles,depot,eventlog,identity,manpage,receive,refresh,remedy,socket,template,terminal,usage,xfr}}/... github.com/{coredns/caddy,osrg/gobgp/v4,caddyserver,gaissmai,go-viper,mholt,minio,opentracing,pelletier,quic-go,secure-systems-lab,sigstore,sourcegraph,spf13,theupdateframework,tinylib,vishvananda,zeebo}/... golang.org/x/oauth2/... gopkg.in/... google.golang.org/grpc/... go.uber.org/...)

# leaner is lean too in a program that answers no query: HTTP and TLS as they are handled, metrics. Ciphers and hashes stay as they are, and so
# does JSON, of which a release of many zones is large.
leaner=(crypto/{tls,x509} encoding/{asn1,xml} html/... mime/... net/http/... net/textproto net/url vendor/golang.org/x/net/... {github.com/prometheus,google.golang.org/protobuf}/...)

build() { # NAME PACKAGE [TAG…]: the tags of a program that answers no query
	local v=${VERSION:-$(version)} tags=grpcnotrace${3:+,$3} plain=("${lean[@]}") link=
	# The linker begins a function at a multiple of 32 octets on amd64, which matters to loops that answer queries. 4 is what arm64 needs.
	[ -z "${3:-}" ] || { plain+=("${leaner[@]}") link=-funcalign=4; }
	plain=("${plain[@]/#/-gcflags=}")
	go build -buildvcs=false -tags "$tags" "${plain[@]/%/=-l}" -o "${into:-bin}/$1" -ldflags "-s -w $link -X main.version=$v \
		-X github.com/coredns-anycast/coredns-anycast/plugin/meshsync.Version=$v" "$2"
}

# nethttpomithttp2: these two speak HTTP/1.1 to each other, to browsers and to S3, so the HTTP/2 of net/http, half a megabyte of each,
# never runs in them. DNS over HTTPS of coredns wants it.
binaries() {
	build coredns ./cmd/coredns
	build anycast-sidecar ./sidecar nethttpomithttp2
	build meshctl ./cmd/meshctl nethttpomithttp2
}

demo() {
	binaries # what is there already and has not changed takes a second
	build anycast-demo ./cmd/demo
	exec bin/anycast-demo --bin bin "$@"
}

image() {
	for builder in podman buildah docker none; do
		command -v $builder >/dev/null && break
	done
	[ $builder != none ] || { echo "an image needs podman, buildah or docker, and none of them is installed" >&2; exit 1; }
	binaries
	$builder build -t "coredns-anycast:$(version)" -t coredns-anycast:latest -f Containerfile bin
}

# dist makes a release from the sources alone: the same commit and Go give the same octets. $DIST is where; $VERSION and
# $SOURCE_DATE_EPOCH are the commit's.
dist() { # [ARCH…]
	command -v dpkg-deb >/dev/null || { echo "dist needs dpkg-deb, which is Debian's" >&2; exit 1; }
	out=${DIST:-dist} VERSION=${VERSION:-$(version)}
	SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
	export VERSION SOURCE_DATE_EPOCH
	# A version of Debian's begins with a digit, and has no hyphen but that before its revision.
	local debian=${VERSION#v} arch
	[[ $debian == [0-9]*.* ]] || debian="0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$debian"
	debian=${debian//-/.}
	rm -rf "$out"
	mkdir -p "$out/work/pages"
	go build -o "$out/work/sbom" ./internal/sbom
	into=$out/work/here binaries
	pages "$out/work/here" "$out/work/pages"
	for arch in ${@:-amd64 arm64}; do
		echo "for $arch: coredns, anycast-sidecar, meshctl and their packages"
		into=$out/work/$arch GOOS=linux GOARCH=$arch binaries
		deploy/debian/package.sh "$debian" "$arch" "$out/work/$arch" "$out/work/pages" "$out"
		(cd "$out/work/$arch" && ../sbom coredns anycast-sidecar meshctl) >"$out/coredns-anycast_${VERSION}_linux_$arch.cdx.json"
		archive "$arch"
	done
	rm -r "$out/work"
	(cd "$out" && sha256sum -- *.deb *.tar.gz *.json >SHA256SUMS)
	echo "made of $VERSION in $out:" && ls "$out"
}

# pages writes what the programs say of themselves: manual pages, and completions for shells.
pages() { # PROGRAMS OUT
	local program shell
	for program in anycast-sidecar meshctl; do
		"$1/$program" man >"$2/$program.8"
		for shell in bash zsh fish; do
			"$1/$program" completion $shell >"$2/$program.$shell"
		done
	done
	go run ./internal/manpage/plugins plugin/*/README.md -- "$2"
}

# archive packs the programs of an architecture with what else is deployed.
archive() { # ARCH
	local name=coredns-anycast_${VERSION}_linux_$1
	mkdir -p "$out/work/$name/bin"
	cp "$out/work/$1"/* "$out/work/$name/bin/"
	cp -r deploy LICENSE README.md CHANGELOG.md ./*.example* "$out/work/$name/"
	find "$out/work/$name" -type d -exec chmod 755 {} + -o -type f -perm -u+x -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
	tar -C "$out/work" --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -c "$name" | gzip -6n >"$out/$name.tar.gz"
}

missing() {
	for c in $commands; do
		PATH="$PATH:/usr/sbin:/sbin" command -v "$c" >/dev/null || printf '%s ' "$c"
	done
}

# install_daemons gets what is missing, and keeps Debian from starting any of it: the tests start their own.
install_daemons() {
	[ -n "$(missing)" ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "not installed, so tests are skipped: $(missing)(Debian packages: $daemons)"
		return 0
	fi
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
		made+=("$policy")
	fi
	apt-get update -qq
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $daemons >/dev/null
}

# run shows what failed, what was skipped and why, and a line for each package.
run() { go test -json "$@" | "$quiet"; }

# dead names the functions that no shipped program reaches, and those of everything else that no test does. What only tests
# want is in a _test.go file, or in a package for tests.
dead() {
	go tool deadcode ./cmd/coredns ./sidecar ./cmd/meshctl ./internal/sim/cmd ./test/differential | grep -v '^internal/\(lab\|testenv\)/' || true # tests' own
	go tool deadcode -test ./...
}

# fuzz has each fuzz target make inputs of its own, some seconds' worth: those of what reads zones and clocks. They are
# counted, since go test at times fails for nothing when a time it was given is over.
fuzz() {
	for package in ./internal/query ./internal/rdata ./internal/template ./internal/zone ./internal/zonefile ./sidecar/clock; do
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
			go test -run '^$' -fuzz "^$target\$" -fuzztime 10000x -fuzzminimizetime 1x "$package" >"$fuzzed" 2>&1 || { cat "$fuzzed"; failed=1; }
		done
	done
}

bench() { # [NAMES [OPTION…]]
	binaries
	build stock ./test/bench/stock
	build bench ./test/bench
	exec bin/bench -bin bin ${1:+-names "$@"}
}

tests() {
	install_daemons
	unformatted=$(gofmt -l cmd internal plugin sidecar test)
	[ -z "$unformatted" ] || { echo "gofmt these: $unformatted"; exit 1; }
	go vet ./...
	GOOS=darwin go vet ./internal/... ./plugin/... ./cmd/meshctl
	unreached=$(dead)
	[ -z "$unreached" ] || { echo "dead code: $unreached"; exit 1; }
	quiet=$(mktemp)
	made+=("$quiet")
	go build -o "$quiet" ./internal/testenv/quiet
	# Tests of the whole run after the rest, two packages and four tests of each at a time, since they mostly wait, and the
	# longest first. They build the programs themselves, so that what go test remembers of them says nothing.
	# shellcheck disable=SC2046
	run -timeout 15m ${1:+-run "$1"} $(go list ./... | grep -v /test/) || failed=1
	run -count=1 -timeout 25m -p 2 -parallel 4 ${1:+-run "$1"} ./test/mesh ./test/... || failed=1
	# Modules of their own, which "go test" vets.
	(cd test/kubernetes && run -count=1 -timeout 15m ${1:+-run "$1"} .) || failed=1
	[ -z "${FULL:-}" ] || (cd test/kubernetes/apiserver && run -count=1 -timeout 30m ${1:+-run "$1"} .) || failed=1
	fuzzed=$(mktemp)
	made+=("$fuzzed")
	[ -n "${1:-}" ] || fuzz
	exit ${failed:-0}
}

case "${1:-}" in
"") binaries && echo "made $(version) in $PWD/bin: coredns, anycast-sidecar, meshctl" ;;
demo) shift; demo "$@" ;;
test) shift; tests "$@" ;;
bench) shift; bench "$@" ;;
sim)
	shift
	go build -o bin/sim ./internal/sim/cmd
	GOGC=off GOMEMLIMIT=1GiB exec bin/sim "$@" # a history leaves little behind, and collecting it was a quarter of its cost
	;;
daemons) install_daemons ;;
image) image ;;
dist) shift; dist "$@" ;;
-h | --help | help) sed -n '2,11s/^# \{0,1\}//p' "$0" ;;
*) echo "build.sh: $1 is none of these" >&2; sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
