# espalier run: arguments, output, failures with their place, exit statuses.
. "$(dirname "$0")/lib.inc"

cat >hello.lua <<'LUA'
local esp = require "espalier"
print("hello", arg[1], #arg, ...)
io.write("version ", esp.version, "\n")
LUA
expect_out "hello	one	2	one	two" "$ESPALIER" run hello.lua one two
expect_out "version 0." "$ESPALIER" run hello.lua

printf 'local x = nil\nprint(x.y)\n' >broken.lua
status=0
"$ESPALIER" run broken.lua >out.txt 2>err.txt || status=$?
[ $status -eq 1 ] || fail "exit status $status of a failing script, expected 1"
grep -q 'broken.lua:2:' err.txt || { cat err.txt; fail "no place in the message"; }
grep -q 'stack traceback' err.txt || fail "no traceback"

printf 'if then\n' >syntax.lua
status=0
"$ESPALIER" run syntax.lua >out.txt 2>err.txt || status=$?
[ $status -eq 1 ] && grep -q 'syntax.lua:1:' err.txt || fail "a syntax error is told with its line"
[ "$(wc -l <err.txt)" -eq 1 ] || { cat err.txt; fail "a syntax error is one line"; }

expect 1 "missing.lua" "$ESPALIER" run missing.lua
expect 2 "SCRIPT" "$ESPALIER" run

# a script that ends only when it is stopped, whatever it catches
printf 'print("started") while true do pcall(function() while true do end end) end\n' >endless.lua
"$ESPALIER" run endless.lua >out.txt 2>err.txt &
pid=$!
tries=0
until grep -q started out.txt; do tries=$((tries + 1)); [ $tries -lt 100000 ] || fail "did not start"; done
kill -INT $pid
status=0
wait $pid || status=$?
[ $status -eq 130 ] || { cat err.txt; fail "exit status $status of an interrupted script, expected 130"; }

printf 'print(os.execute ~= nil)\n' >trusted.lua
expect_out "false" "$ESPALIER" run trusted.lua
expect_out "true" "$ESPALIER" run --trusted trusted.lua
