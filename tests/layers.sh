#!/bin/sh
# Checks what may include what. Usage: layers.sh [SOURCE_DIR]
#
# A file includes headers of its own layer and of those listed for it below; external headers that belong to one
# room stay in it; and nothing in src/ but the command line prints or ends the program.
set -eu

cd "${1:-$(dirname "$0")/..}"
violations=$(mktemp)
trap 'rm -f "$violations"' EXIT

# layer: layers it may include. The same table as in CMakeLists.txt, written out in full.
allowed() {
    case $1 in
    base) echo "base" ;;
    tensor) echo "base tensor" ;;
    graph) echo "base tensor graph" ;;
    train) echo "base tensor graph train" ;;
    io) echo "base tensor graph train io" ;;
    prune) echo "base tensor graph train prune" ;;
    study) echo "base tensor graph train io prune study" ;;
    plot) echo "base plot" ;;
    script) echo "base tensor graph train io prune study plot script" ;;
    cli) echo "base tensor graph train io prune study plot script cli" ;;
    ui) echo "base tensor graph train io prune study plot ui" ;;
    main) echo "base tensor graph train io prune study plot script cli ui" ;;
    *) echo "" ;;
    esac
}

# Lines "file:line:header" of all includes in quotes of the files that are read from the list.
quoted_includes() {
    xargs -r grep -Hn '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' /dev/null |
        sed -E 's/^([^:]*:[0-9]+):[^"]*"([^"]*)".*/\1:\2/'
}

check_layer() { # <layer> <file list>
    may=" $(allowed "$1") "
    printf '%s\n' "$2" | quoted_includes | while IFS=: read -r file line header; do
        room=${header%%/*}
        # Generated code, and a header beside the file, have no room in front.
        [ "$room" = "$header" ] && continue
        case $may in
        *" $room "*) ;;
        *) echo "$file:$line: layer $1 includes \"$header\"; it may use:$may" ;;
        esac
    done
}

# <what> <extended pattern of the header> <extended pattern of the files that may>
check_external() {
    find src ui -name '*.[ch]' -exec grep -HnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($2)[>\"]" {} + |
        grep -vE "^($3)" | while IFS=: read -r file line rest; do
        echo "$file:$line: $1 is not for this file:$rest"
    done || true
}

# Comments and strings go first, so that a word in a message is not a call.
check_calls() {
    find src -name '*.[ch]' ! -path 'src/cli/*' ! -path src/main.c | while read -r file; do
        sed -E 's/\\./_/g; s/"[^"]*"/""/g; s,//.*,,; s,/\*[^*]*\*/,,g; /^[[:space:]]*(\/\*|\*)/d' "$file" |
            grep -nE '(^|[^A-Za-z0-9_.>])(printf|vprintf|puts|putchar|perror|exit|_exit|quick_exit|abort)[[:space:]]*\(|[^A-Za-z0-9_](stdout|stderr)[^A-Za-z0-9_]' |
            sed "s,^\([0-9]*\):,$file:\1: only src/cli and src/main.c print or end the program: ,"
    done || true
}

layer_count=0
for directory in src/*/ ui/; do
    [ -d "$directory" ] || continue
    layer=$(basename "$directory")
    files=$(find "$directory" -name '*.[ch]')
    [ -n "$files" ] || continue
    if [ -z "$(allowed "$layer")" ]; then
        printf '%s\n' "$files" |
            sed 's/$/: no layer of this name; add it to tests\/layers.sh and CMakeLists.txt/' >>"$violations"
        continue
    fi
    layer_count=$((layer_count + 1))
    check_layer "$layer" "$files" >>"$violations"
done
if [ -f src/main.c ]; then
    check_layer main src/main.c >>"$violations"
fi
{
    check_external curses '(ncursesw?/)?(n?curses|panel|menu|form|term)\.h' 'ui/'
    check_external BLAS 'cblas.*\.h|openblas.*\.h|lapacke.*\.h' 'src/tensor/blas\.c:'
    check_external Lua '(lua5\.4/)?(lua|lauxlib|lualib|luaconf)\.h' 'src/script/'
    check_external SQLite 'sqlite3\.h' 'src/study/'
    check_external protobuf '(protobuf-c/|.*\.pb-c\.h).*' 'src/io/'
    check_calls
} >>"$violations"

if [ -s "$violations" ]; then
    cat "$violations"
    exit 1
fi
echo "$layer_count layers: every include goes the right way"
