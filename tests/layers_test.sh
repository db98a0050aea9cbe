#!/bin/sh
# The layer check itself: a clean tree passes, and each kind of violation is caught and named.
set -eu

source_dir=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/src/base" "$scratch/src/graph" "$scratch/src/script" "$scratch/src/cli" "$scratch/ui/views"

fresh_tree() {
    printf '#include "base/status.h"\n/* printf("in a comment") */\n' >"$scratch/src/base/status.c"
    printf '#include "base/status.h"\nint f(void) { return snprintf(0, 0, "exit(1)"); }\n' >"$scratch/src/graph/graph.c"
    printf '#include <lua.h>\n#include "graph/graph.h"\n' >"$scratch/src/script/bind.c"
    printf '#include <stdio.h>\nvoid g(void) { puts("x"); }\n' >"$scratch/src/cli/inspect.c"
    printf '#include <ncurses.h>\n#include "graph/graph.h"\n#include "ui/app.h"\n' >"$scratch/ui/app.c"
    printf '#include "ui/app.h"\n' >"$scratch/ui/views/layers.c"
}

expect_caught() { # <file> <line to add>
    fresh_tree
    printf '%s\n' "$2" >>"$scratch/$1"
    if sh "$source_dir/tests/layers.sh" "$scratch" >"$scratch/said"; then
        echo "not caught in $1: $2"
        exit 1
    fi
    if ! grep -q "^$1:" "$scratch/said"; then
        echo "caught, but $1 is not named for: $2"
        cat "$scratch/said"
        exit 1
    fi
}

fresh_tree
sh "$source_dir/tests/layers.sh" "$scratch"
expect_caught src/base/status.c '#include "graph/graph.h"'
expect_caught src/graph/graph.c '#include "script/bind.h"'
expect_caught src/cli/inspect.c '#include "ui/app.h"'
expect_caught ui/views/layers.c '#include "script/bind.h"'
expect_caught ui/views/layers.c '#include <lua.h>'
expect_caught src/cli/inspect.c '#include <curses.h>'
expect_caught src/graph/graph.c '  #  include <cblas.h>'
expect_caught src/base/status.c '#include <lauxlib.h>'
expect_caught src/graph/graph.c '#include "onnx.pb-c.h"'
expect_caught src/graph/graph.c 'void h(void) { printf("hello"); }'
expect_caught src/graph/graph.c 'void h(void) { fprintf(stderr, "hello"); }'
expect_caught src/script/bind.c 'void h(void) { exit(1); }'
expect_caught src/base/status.c 'void h(void) { if (1) abort(); }'
mkdir "$scratch/src/attic"
expect_caught src/attic/old.c 'int x;'
echo "every planted violation is caught"
