# Standard streams that are closed, full or gone, and JSON that must stay JSON whatever is in names and numbers.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/lenet5.onnx

# what is printed goes into no file that was opened in the place of a closed stream
status=0
"$ESPALIER" prune "$MODEL" -o closed.onnx --method wsp --ratio 0.4 >&- 2>err.txt || status=$?
[ $status -eq 1 ] || fail "exit status $status with standard output closed, expected 1"
grep -q 'standard output' err.txt || { cat err.txt; fail "no word of standard output"; }
expect_out "conv1" "$ESPALIER" inspect closed.onnx
"$ESPALIER" inspect missing.onnx <&- >&- 2>&- && fail "a missing file with all streams closed"

if [ -c /dev/full ]; then
    for command in inspect saliency; do
        status=0
        "$ESPALIER" $command "$MODEL" --json >/dev/full 2>err.txt || status=$?
        [ $status -eq 1 ] || fail "exit status $status of $command on a full disk, expected 1"
    done
    # a script ends when nobody takes what it prints
    echo 'while true do print("more") end' >more.lua
    status=0
    "$ESPALIER" run more.lua >/dev/full 2>err.txt || status=$?
    [ $status -eq 1 ] || fail "exit status $status of a script on a full disk, expected 1"
    grep -q 'standard output' err.txt || { cat err.txt; fail "no word of standard output"; }
fi

# a reader that has seen enough is no reason to complain
{ "$ESPALIER" inspect "$MODEL" --json 2>err.txt || echo $? >status.txt; } | head -c 1 >one.txt
echo 'while true do print("more") end' >more.lua
{ "$ESPALIER" run more.lua 2>>err.txt || true; } | head -n 1 >one.txt
[ ! -s err.txt ] || { cat err.txt; fail "words about a pipe that was closed"; }

# a file name that is not UTF-8
name=$(printf 'm\351.onnx')
cp "$MODEL" "$name"
expect_out '"m?.onnx"' "$ESPALIER" inspect "$name" --json
[ "$(json 'len(d["layers"])')" = 4 ] || fail "layers of LeNet-5"
expect_out '"m?.onnx"' "$ESPALIER" compare "$name" "$MODEL" --json
json 'd["a"]["params"] == d["b"]["params"]' | grep -q True || fail "the same model"

expect_out '"sets"' "$ESPALIER" inspect "$MODEL" --coupling --json
json '[s["read_by"] for s in d["sets"] if s["written_by"] == ["conv1"]]' | grep -qx "\[\['conv2'\]\]" ||
    fail "conv1 is read by conv2"

# numbers that JSON has not
if [ -d /usr/share/datasets/fashion-mnist ]; then
    expect_out '"loss": null' "$ESPALIER" eval "$MODEL" --data fashion-mnist --limit 100 --std 1e-38 --json
    json 'd["images"]' | grep -qx 100 || fail "images"
fi

# a plan is kept only when it fits the model
expect 2 "nosuch" "$ESPALIER" prune "$MODEL" --dry-run --method wsp --ratio 0.1 --layer nosuch=0.2 --save-plan plan.json
[ ! -e plan.json ] || fail "a plan that does not fit was written"

expect 2 "espalier bench: --threads: found '0'" "$ESPALIER" bench "$MODEL" --threads 0
expect 2 "espalier: unknown option '--foo'" "$ESPALIER" --foo
