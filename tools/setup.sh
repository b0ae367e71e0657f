# Shared by ./run, ./test and tools/*: the Debian packages Rhetor needs, and how it is built. POSIX shell; sourced, not run.
# REQUIRES: $here is the root of the checkout.

# What the build links against; what the tests use besides; what lint and sanitizer runs use besides.
packages_build="g++ cmake ninja-build pkg-config libfmt-dev libxxhash-dev libhwy-dev libdnnl-dev ocl-icd-opencl-dev
  nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libboost-dev libpcre2-dev libutf8proc-dev zlib1g-dev liblzma-dev libzstd-dev
  libgtest-dev libgmock-dev"
packages_test="python3 python3-venv curl xz-utils zstd gzip git openmpi-bin libopenmpi-dev iproute2"
packages_fuzz="python3 clang-16 libclang-rt-16-dev llvm-16"   # tools/fuzz; clang 16 is the first that compiles this with GCC 12's library

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1; then sudo "$@"
  else echo "error: installing packages needs root; run this as root or install sudo" >&2; return 1
  fi
}

# install_packages build|test|fuzz: installs what is missing and nothing else.
install_packages() {
  wanted=$packages_build
  [ "$1" = test ] && wanted="$wanted $packages_test"
  [ "$1" = fuzz ] && wanted="$wanted $packages_fuzz"
  missing=
  for package in $wanted; do
    dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $package"
  done
  [ -z "$missing" ] && return 0
  echo "installing:$missing"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
  # shellcheck disable=SC2086  # a list of words
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $missing >/dev/null || {
    echo "error: the packages above could not be installed; run apt-get install by hand to see why" >&2; return 1; }
}

# build_preset PRESET TARGET...: configures at first use and builds.
build_preset() {
  preset=$1; shift
  [ -f "$here/build/$preset/build.ninja" ] || (cd "$here" && cmake --preset "$preset" >"/tmp/rhetor-configure.$$" 2>&1) || {
    cat "/tmp/rhetor-configure.$$" >&2; rm -rf "$here/build/$preset" "/tmp/rhetor-configure.$$"; return 1; }
  rm -f "/tmp/rhetor-configure.$$"
  echo "building $preset ($(nproc) cores)"
  cmake --build "$here/build/$preset" --target "$@" || return 1
}
