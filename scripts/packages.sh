# shellcheck shell=sh
# The Debian packages Espalier needs, and how to install those that are missing. Sourced by the other scripts.
#
# One package a line: what it is for (build, run, test, slow), its name, and optionally the command it is for:
# then the package counts as there when the command is.
espalier_packages='
build build-essential
build cmake
build ninja-build
build pkg-config            pkg-config
build zlib1g-dev
build libjpeg62-turbo-dev
build libpng-dev
build libjansson-dev
build libopenblas-pthread-dev
build libonnx-dev
build protobuf-c-compiler
build libprotobuf-c-dev
build libsqlite3-dev
build liblua5.4-dev
build libncurses-dev
run   dataset-fashion-mnist
run   gnuplot-nox           gnuplot
test  libcmocka-dev
test  libvterm-dev
test  libonnx-testdata
test  python3-onnx
test  clang                 clang
test  libclang-rt-14-dev
slow  nodejs                node
slow  npm                   npm
slow  python3-torchvision
'

# Names of the packages for the given purposes that are not installed.
missing_packages() { # <purpose>...
    if command -v dpkg-query >/dev/null 2>&1; then
        installed=" $(dpkg-query -W -f='${db:Status-Status}:${Package} ' 2>/dev/null) "
    else
        installed=''
    fi
    printf '%s\n' "$espalier_packages" | while read -r purpose package command; do
        case " $* " in
        *" ${purpose:-none} "*) ;;
        *) continue ;;
        esac
        case $installed in
        *" installed:$package "*) continue ;;
        esac
        if [ -n "$command" ] && command -v "$command" >/dev/null 2>&1; then
            continue
        fi
        printf '%s ' "$package"
    done
}

# Runs a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "$0: not root and no sudo here; as root, run: $*" >&2
        return 1
    fi
}

# Installs what is missing for the given purposes, after saying what that is.
install_missing_packages() { # <purpose>...
    missing=$(missing_packages "$@")
    if [ -z "$missing" ]; then
        return 0
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "$0: no apt-get here. Espalier needs these packages, or what holds the same: $missing" >&2
        return 1
    fi
    echo "Installing from Debian: $missing"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $missing
}

# Compiles through ccache where there is one. It is never required.
use_ccache_if_there() {
    if command -v ccache >/dev/null 2>&1; then
        export CMAKE_C_COMPILER_LAUNCHER=ccache
    fi
}

# Configures and builds a preset, quietly as long as all goes well.
build_preset() { # <preset> <target> [<cmake argument>...]
    preset=$1
    target=$2
    shift 2
    echo "Building build/$preset"
    mkdir -p "build/$preset"
    if ! cmake --preset "$preset" "$@" >"build/$preset/configure.log" 2>&1; then
        cat "build/$preset/configure.log" >&2
        return 1
    fi
    if [ -t 1 ]; then
        cmake --build --preset "$preset" --target "$target"
    else
        cmake --build --preset "$preset" --target "$target" -- --quiet
    fi
}
