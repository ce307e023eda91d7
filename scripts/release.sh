#!/bin/bash
# Writes into dist/ what a release consists of, for Linux on amd64, arm64 and 32-bit ARM: an archive with the static
# binary, and images for `docker load`. The same commit gives the same bytes with the same Go and CA certificates.
# usage: release.sh [ARCH...]     VERSION names it; SOURCE_DATE_EPOCH dates what is inside (the commit's time)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
GO=${GO:-go}
VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
[[ $VERSION =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,80}$ ]] || {
  echo "release: VERSION $VERSION cannot be an image's tag; hint: use letters, digits, dots and dashes" >&2
  exit 2
}
(($#)) || set -- amd64 arm64 armv7
with=(LICENSE README.md README.zh-CN.md CHANGELOG.md docs/deploy.md docs/deploy.zh-CN.md
  deploy/detour.service deploy/detour.yaml deploy/compose.yaml deploy/compose.bridge.yaml)

mkdir -p dist/build
"$GO" build -o dist/build/pack ./deploy/pack
for arch; do
  binary=dist/build/detour-$arch
  case $arch in
    armv7) target=(GOARCH=arm GOARM=7) ;;
    *) target=("GOARCH=$arch") ;;
  esac
  env CGO_ENABLED=0 GOOS=linux "${target[@]}" "$GO" build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION" -o "$binary" ./cmd/detour
  dist/build/pack archive -binary "$binary" -o "dist/detour_${VERSION}_linux_$arch.tar.gz" "${with[@]}"
  dist/build/pack image -binary "$binary" -version "$VERSION" -arch "$arch" -o "dist/detour-image_${VERSION}_linux_$arch.tar"
done
(cd dist && sha256sum "detour_${VERSION}_"* "detour-image_${VERSION}_"* >"SHA256SUMS_$VERSION")
echo "release: in dist/:"
cat "dist/SHA256SUMS_$VERSION"
