# The sample models and their pruned siblings are what their table says: sizes, and accuracy on real images.
. "$(dirname "$0")/lib.inc"

rows=0
grep -E '^\| `' "$SAMPLES/README.md" | tr -d '`*' >table
while IFS='|' read -r _ file _ params macs _ top1 _; do
    # shellcheck disable=SC2086 # words of a cell
    set -- $file $params
    model=$1 params=$2
    set -- $macs
    macs=$1
    set -- $top1
    top1=$1
    expect_out "$params params, $macs MACs" "$ESPALIER" inspect "$SAMPLES/$model"
    "$ESPALIER" eval "$SAMPLES/$model" --data fashion-mnist --limit 2000 --json >out.txt
    [ "$(json "abs(d['top1'] - $top1) < 3")" = True ] || { cat out.txt; fail "$model: the table says $top1 %"; }
    "$ESPALIER" inspect "$SAMPLES/$model" --json >out.txt
    json "d['macs']" >"${model%.onnx}.macs"
    rows=$((rows + 1))
done <table
[ "$rows" -eq 8 ] || fail "$rows models in the table, expected 8"
for pruned in *_pruned.macs; do
    whole=$(cat "${pruned%_pruned.macs}.macs")
    [ "$(cat "$pruned")" -lt $((whole / 2)) ] || fail "$pruned: not half of $whole"
done
