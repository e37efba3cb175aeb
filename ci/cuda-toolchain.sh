#!/usr/bin/env bash
# Makes a folder with what `--features cuda` needs to build where there is no CUDA toolkit: NVIDIA's compiler from
# Python wheels (cuda/wheels.txt, hashes pinned, through the index that pip is configured with), and archives that
# stand in for the driver and the libraries when linking (cuda/late_binding.py).
#
#     ci/cuda-toolchain.sh DIR && . DIR/env && cargo build -p bench --features cuda
#     ci/cuda-toolchain.sh DIR TOOLKIT        # with the compiler of an installed toolkit, such as /usr/local/cuda: fetches nothing
#
# Exit code 4: the wheels cannot be fetched. Needs python3 (with pip, without TOOLKIT), gcc, ar and cargo, on 64-bit Linux on x86.
# No GPU and no driver. A binary that was linked this way needs no CUDA library to start.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "cuda-toolchain: $*" >&2; exit 1; }
[[ $# == 1 || $# == 2 ]] || die "usage: ci/cuda-toolchain.sh DIR [TOOLKIT]"
[[ $(uname -sm) == "Linux x86_64" ]] || die "made for Linux on x86_64; use NVIDIA's toolkit here"
for tool in python3 gcc ar cargo; do command -v "$tool" >/dev/null || die "needs $tool"; done
toolkit=''
if [[ $# == 2 ]]; then
    [[ -x $2/bin/nvcc ]] || die "$2 is no CUDA toolkit: it has no bin/nvcc"
    toolkit=$(cd "$2" && pwd)
fi
mkdir -p "$1"
root=$(cd "$1" && pwd)
stamp=$({ cat "$here/cuda/wheels.txt" "$here/cuda/late_binding.py" "$here/cuda/nvcc-needed" "$0"
    [[ -z $toolkit ]] || { echo "$toolkit"; "$toolkit/bin/nvcc" --version; }; } | sha256sum | cut -c1-64)
if [[ -f $root/stamp && $(<"$root/stamp") == "$stamp" ]]; then
    echo "cuda-toolchain: $root is up to date"
    exit 0
fi
work=$(mktemp -d "$root/.make.XXXXXX")
trap 'rm -rf "$work"' EXIT

from_wheels() { # leaves `cuda`
    if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
        --dest "$work/wheels" --requirement "$here/cuda/wheels.txt" 2>"$work/said"; then
        cat "$work/said" >&2
        grep -qi 'do not match the hashes' "$work/said" && die "what was fetched is not what wheels.txt pins; nothing of it was kept"
        echo "cuda-toolchain: the wheels cannot be fetched here" >&2
        exit 4
    fi
    for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
    cuda=$work/site/nvidia/cu13
    [[ -f $cuda/bin/nvcc ]] || die "the wheels hold no compiler"
    # Zip files extracted by Python lose their modes.
    chmod +x "$cuda"/bin/* "$cuda"/nvvm/bin/*
    # The compiler as a library: 63 MB that nothing here calls.
    rm -f "$cuda"/lib/libnvvm.so* "$cuda"/lib/*.alt.so*
}

# Only the linker is to find other libraries than the toolkit's; its programs look for their files from where they are.
from_toolkit() { # leaves `cuda` and `libraries`
    local program
    cuda=$work/cuda
    mkdir -p "$cuda/bin" "$cuda/lib"
    ln -s "$toolkit/include" "$cuda/include"
    for program in nvcc ptxas; do printf '#!/bin/sh\nexec "%s" "$@"\n' "$toolkit/bin/$program" >"$cuda/bin/$program"; done
    chmod +x "$cuda"/bin/*
    for libraries in "$toolkit/lib64" "$toolkit/targets/x86_64-linux/lib" "$toolkit/lib" "$toolkit/lib/x86_64-linux-gnu"; do
        if [[ -f $libraries/libcudart_static.a ]]; then ln -s "$libraries/libcudart_static.a" "$cuda/lib/"; return; fi
    done
    die "$toolkit has no libcudart_static.a"
}

libraries=''
if [[ $toolkit ]]; then from_toolkit; else from_wheels; fi
ln -s lib "$cuda/lib64"
# candle links the runtime by its short name; the static one leaves nothing to look for at start.
ln -sf libcudart_static.a "$cuda/lib/libcudart.a"
release=$("$cuda/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\),.*/\1/p')
major=${release%.*}
[[ $major == 12 || $major == 13 ]] || die "CUDA 12 or 13 is needed, and the nvcc of ${toolkit:-the wheels} is of $release"

# The names of the functions to stand in for are read from the bindings' own source, of the version in Cargo.lock.
version=$(sed -n '/^name = "cudarc"$/{n;s/version = "\(.*\)"/\1/p}' "$here/../Cargo.lock")
(cd "$here/.." && cargo fetch --quiet --locked)
bindings=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -type d -name "cudarc-$version" | head -n 1)
[[ -n $bindings ]] || die "the source of cudarc $version is not in cargo's registry"
python3 "$here/cuda/late_binding.py" "$bindings" "$cuda/lib" "$major" ${libraries:+"$libraries"}
install -m 755 "$here/cuda/nvcc-needed" "$cuda/bin/nvcc-needed"
# The newest interface that the bindings know and the toolkit has.
interface=$(sed -n 's/^cuda-\([0-9]*\) = .*/\1/p' "$bindings/Cargo.toml" | sort -n |
    awk -v most="$((major * 1000 + ${release#*.} * 10))" '$1 <= most' | tail -n 1)

rm -rf "$root/cuda"
mv "$cuda" "$root/cuda"
cat >"$root/env" <<ENV
# For a shell that builds with \`--features cuda\`.
export CUDA_HOME='$root/cuda' CUDA_PATH='$root/cuda'
# NVCC='$root/cuda/bin/nvcc' compiles candle's quantised kernels too, which nothing here calls.
export NVCC='$root/cuda/bin/nvcc-needed'
export PATH='$root/cuda/bin':"\$PATH"
# Without a card nobody can be asked what to compile for: 80 runs on every card from Ampere on.
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-80}"
# The version of the interface to bind against.
export CUDARC_CUDA_VERSION=$interface
ENV
"$root/cuda/bin/nvcc" --version | tail -n 2
du -sh "$root/cuda" | sed 's/\t.*//;s/^/size: /'
echo "$stamp" >"$root/stamp"
echo "cuda-toolchain: now \`. $1/env\` and build with \`--features cuda\`"
