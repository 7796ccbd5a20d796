#!/bin/sh
# What `make dist` runs, from the root of the checkout: for each of $ARCHS a deb, an rpm and a
# tarball, one SBOM and SHA256SUMS, in the folder $1. The same commit gives the same bytes, whatever
# the folder, the user and the day, with the same version of Go.
#
# Which files lanyard has, `make install` says alone. What lies in dist/ beside the folders that are
# left out below comes with the documentation.
set -eu
out=$1
: "${GO:=go}" "${VERSION:?}" "${COMMIT?}" "${ARCHS:?}" "${FORMATS:=deb rpm tar}"
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2

umask 022
export LC_ALL=C TZ=UTC
# What a builder has set for other builds must not show in this one.
export CGO_ENABLED=0 GOOS=linux GOFLAGS= GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 GOARM=7
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH

# Versions as dpkg and rpm sort them: 1.2.3, 1.2.3~rc1, 1.2.3+4.gabc (4 commits later), and below
# all of them 0~20261129.abc for a commit that follows no tag.
case $VERSION in
v[0-9]*.*|[0-9]*.*) PKG_VERSION=$(echo "$VERSION" | sed -E 's/^v//; s/-dirty$/+dirty/; s/-([0-9]+)-(g[0-9a-f]+)/+\1.\2/; s/-/~/g') ;;
*) PKG_VERSION=0~$(date -d "@$SOURCE_DATE_EPOCH" +%Y%m%d).$(echo "$VERSION" | sed 's/-/+/g') ;;
esac
export PKG_VERSION

mkdir -p "$out"
out=$(cd "$out" && pwd)
find "$out" -maxdepth 1 -type f \( -name 'lanyard*' -o -name SHA256SUMS \) -delete
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() { # to a file; GOARCH says for what
	"$GO" build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o "$1" ./cmd/lanyard
}
set --
for arch in $ARCHS; do
	goarch=$arch
	[ "$arch" != armv7 ] || goarch=arm
	GOARCH=$goarch build "$work/lanyard-$arch"
	set -- "$@" "$work/lanyard-$arch"
done
# The one that runs here says the completions.
native=$work/lanyard-$("$GO" env GOHOSTARCH)
[ -x "$native" ] || GOARCH= build "$native"
GOARCH= GOOS= "$GO" run -buildvcs=false ./dist/bom -version "$VERSION" -sbom "$out/lanyard-$PKG_VERSION.cdx.json" -licences "$work/third-party.txt" "$@"

# The example, which sets things, with all that it sets behind a #.
export CONFIG=$work/config.yaml
sed -E -e '1,/^$/!s/^([^#])/#\1/' -e 's|docs/|/usr/share/doc/lanyard/&|' \
	-e '0,/^$/s/^$/# As it comes it sets nothing: take the # from the keys that you want.\n/' docs/config.yaml >"$CONFIG"

mkdir -p "$work/nfpm/deb" "$work/nfpm/rpm"
cp dist/package/nfpm.yaml "$work/nfpm"
for script in deb/postinst deb/prerm deb/postrm rpm/post rpm/preun rpm/postun; do
	cat dist/package/common.sh "dist/package/$script" >"$work/nfpm/$script"
done

documents() { # into a folder: what is to read, and examples
	mkdir -p "$1/docs"
	cp README.md LICENSE CONTRIBUTING.md "$work/third-party.txt" "$1"
	cp docs/*.md docs/config.yaml "$1/docs"
	for example in dist/*; do
		case ${example#dist/} in
		bom|package|plugin) ;;
		*) mkdir -p "$1/dist" && cp -r "$example" "$1/dist" ;;
		esac
	done
}
staged() { # what make install installs, for $arch, into a folder; more variables may follow
	root=$1
	shift
	make -s install BINARY="$work/lanyard-$arch" COMPLETER="$native" DESTDIR="$root" "$@" >/dev/null
}
settle() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }
package() { # a format, and a file
	settle "$STAGE"
	(cd "$work/nfpm" && GOARCH= GOOS= "$GO" run "$nfpm" package --config nfpm.yaml --packager "$1" --target "$out/$2" >/dev/null)
}

for arch in $ARCHS; do
	case $arch in
	armv7) deb=armhf rpm=armv7hl ARCH=arm7 ;;
	arm64) deb=arm64 rpm=aarch64 ARCH=arm64 ;;
	amd64) deb=amd64 rpm=x86_64 ARCH=amd64 ;;
	*) echo "ARCHS=$arch: there are amd64, arm64 and armv7" >&2; exit 2 ;;
	esac
	export ARCH STAGE
	for format in $FORMATS; do
		STAGE=$work/$format-$arch
		doc=$STAGE/usr/share/doc/lanyard
		case $format in
		deb)
			staged "$STAGE" PREFIX=/usr UNITDIR=/lib/systemd/system ZSHDIR="$STAGE/usr/share/zsh/vendor-completions"
			documents "$doc"
			rm "$doc/LICENSE" "$doc/CONTRIBUTING.md" # copyright says it
			cp dist/package/copyright "$doc/copyright"
			cp CHANGELOG.md "$doc/changelog"
			printf 'lanyard (%s-1) unstable; urgency=medium\n\n  * Version %s; see changelog.gz.\n\n -- %s  %s\n' "$PKG_VERSION" "$PKG_VERSION" \
				"$(sed -n 's/^maintainer: //p' dist/package/nfpm.yaml)" "$(date -R -d "@$SOURCE_DATE_EPOCH")" >"$doc/changelog.Debian"
			install -D -m 644 dist/package/deb/lintian-overrides "$STAGE/usr/share/lintian/overrides/lanyard"
			gzip -9n "$doc/changelog" "$doc/changelog.Debian" "$STAGE"/usr/share/man/man1/*
			;;
		rpm)
			staged "$STAGE" PREFIX=/usr UNITDIR=/usr/lib/systemd/system
			documents "$doc"
			cp CHANGELOG.md "$doc"
			install -D -m 644 dist/package/rpm/80-lanyard.preset "$STAGE/usr/lib/systemd/system-preset/80-lanyard.preset"
			gzip -9n "$STAGE"/usr/share/man/man1/*
			;;
		esac
		if [ "$format" = tar ]; then
			name=lanyard-$PKG_VERSION-linux-$arch
			staged "$STAGE/$name/root"
			documents "$STAGE/$name"
			cp CHANGELOG.md "$STAGE/$name"
			install -m 755 dist/package/install.sh "$STAGE/$name/install.sh"
			settle "$STAGE"
			tar -C "$STAGE" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -c "$name" | gzip -n >"$out/$name.tar.gz"
		elif [ "$format" = deb ]; then
			package deb "lanyard_$PKG_VERSION-1_$deb.deb"
		else
			package rpm "lanyard-$PKG_VERSION-1.$rpm.rpm"
		fi
		rm -rf "$STAGE"
	done
done
cd "$out"
find . -maxdepth 1 -type f -name 'lanyard*' -printf '%P\n' | sort | xargs sha256sum >SHA256SUMS
ls -l --time-style=+ | awk 'NF > 4 { printf "%9d  %s\n", $5, $6 }'
