# labels: slow
# Runs every fuzzer for a while: no crash, leak, hang or more than 1 GB of memory, on any bytes.
#
#   sh tests/fuzz/run.sh [SECONDS [NAME...]]     seconds for each (60), names without fuzz_ (all)
#
# Builds with clang into $ESP_BUILD_DIR/fuzz (build/fuzz). What a fuzzer finds stays there as a file whose name it
# prints; the same program with that file as its argument shows it again. Exit status 77 without clang.
set -eu

seconds="${1:-60}"
[ $# -eq 0 ] || shift
source="${ESP_SOURCE_DIR:-$(cd "$(dirname "$0")/../.." && pwd)}"
build="${ESP_BUILD_DIR:-$source/build}/fuzz"
if ! command -v clang > /dev/null; then
    echo "skipped: clang is not installed"
    exit 77
fi

mkdir -p "$build"
cmake -S "$source" -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Debug -DESP_FUZZ=ON \
      -DESP_SANITIZE=address -DBUILD_TESTING=OFF > "$build/build.log" 2>&1 || { cat "$build/build.log"; exit 1; }
ninja -C "$build" fuzzers > "$build/build.log" 2>&1 || { tail -40 "$build/build.log"; exit 1; }

# A corpus of small sound files: ONNX's stored cases where Debian put them, and headers of the other formats.
corpus() {
    mkdir -p "$build/corpus/$1"
    case $1 in
    onnx)
        [ -e "$build/corpus/onnx/.done" ] && return
        for model in $(dpkg -L libonnx-testdata 2> /dev/null | grep '/model\.onnx$'); do
            [ "$(wc -c < "$model")" -gt 65536 ] && continue
            cp "$model" "$build/corpus/onnx/$(basename "$(dirname "$model")").onnx"
        done
        touch "$build/corpus/onnx/.done"
        ;;
    idx)
        printf '\012\000\000\000\010\001\000\000\000\002\000\001\000\000\010\003\000\000\000\002\000\000\000\002\000\000\000\002abcdefgh' \
            > "$build/corpus/idx/two"
        ;;
    safetensors)
        for file in "$source"/tests/lua/data/*.safetensors; do
            head -c 65536 "$file" > "$build/corpus/safetensors/$(basename "$file")"
        done
        ;;
    image)
        for file in "$source"/tests/unit/io/images/*.png "$source"/tests/unit/io/images/*.jpg; do
            [ "$(wc -c < "$file")" -gt 65536 ] || cp "$file" "$build/corpus/image/"
        done
        ;;
    npy)
        # three bytes of our own, two classes, two images of 2x2
        header() { printf '\223NUMPY\001\000v\000%-117s\n' "{'descr': '$1', 'fortran_order': False, 'shape': ($2,), }"; }
        { printf '\202\000\000' && header '|u1' 2 && printf '\000\001' && header '|u1' '2, 2, 2' && printf 'abcdefgh'; } > "$build/corpus/npy/bytes"
        { printf '\220\000\001' && header '<i8' 2 && head -c 16 /dev/zero && header '<f4' '2, 2, 2, 1' && head -c 32 /dev/zero; } > "$build/corpus/npy/floats"
        ;;
    folder)
        # train/, test/, in each a/ and b/ with an image
        printf '\000\000\000\000\000\000\001\000\000\001\003\000\000\001\004\000\000\002\003\000\000\002\004\000\000\003\007\004\001\004\007\004\001\005\007\004\001\006\007\004\001' \
            > "$build/corpus/folder/splits"
        printf '\000\000\003\000\000\000\004\000\000\001\007\004\001\001\010\004\001\002\007\004\001\002\011\005\001' > "$build/corpus/folder/classes"
        ;;
    checkpoint)
        printf 'ESPCKPT\n\001\000\000\000\000\000\000\000' > "$build/corpus/checkpoint/front"
        printf '\000\003\000\001' > "$build/corpus/checkpoint/change"
        ;;
    cifar)
        head -c 6146 /dev/zero > "$build/corpus/cifar/two"
        ;;
    esac
}

status=0
for program in "$build"/tests/fuzz/fuzz_*; do
    [ -x "$program" ] && [ -f "$program" ] || continue
    name=$(basename "$program" | sed 's/^fuzz_//')
    if [ $# -gt 0 ] && ! echo " $* " | grep -q " $name "; then
        continue
    fi
    corpus "$name"
    # Inputs past 64 KB teach nothing new and slow the search down.
    if (cd "$build" && "$program" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -max_len=65536 \
            -print_final_stats=1 -artifact_prefix="$build/$name-" "corpus/$name" > "$build/$name.log" 2>&1); then
        echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log") inputs," \
             "$(sed -n 's/^stat::peak_rss_mb: *//p' "$build/$name.log") MB at most, nothing found"
    else
        tail -60 "$build/$name.log"
        echo "$name: failed"
        status=1
    fi
done
exit $status
