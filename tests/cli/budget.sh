# prune --target: ratios solved for MACs, parameters and latency; and what is said when they cannot be.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/lenet5.onnx
XDG_CACHE_HOME=$SCRATCH/cache
export XDG_CACHE_HOME

for method in wsp sg filter; do
    for distribution in uniform saliency; do
        expect_out '"budget"' "$ESPALIER" prune "$MODEL" --method $method --distribution $distribution \
            --target macs=0.6 --target params=0.9 --dry-run --json
        json 'all(a["after"] <= a["target"] for a in d["budget"]["amounts"].values() if a["is_target"])' |
            grep -q True || fail "$method $distribution: a target is missed"
        json 'd["after"]["macs"] == d["budget"]["amounts"]["macs"]["after"]' | grep -q True ||
            fail "$method $distribution: the preview is not the one that was solved"
        json 'd["budget"]["binding"]' | grep -qE 'macs|params' || fail "$method $distribution: what binds"
    done
done

# the solved plan is a plan like any other, and cutting it gives the counts that were promised
expect_out "this target binds" "$ESPALIER" prune "$MODEL" -o half.onnx --method wsp --target macs=0.5 --save-plan plan.json
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --plan plan.json --dry-run --json
json 'd["after"]["macs"] <= 0.5 * d["before"]["macs"]' | grep -q True || fail "the saved plan"
expect_out '"macs"' "$ESPALIER" compare "$MODEL" half.onnx --json
json 'd["b"]["macs"] <= 0.5 * d["a"]["macs"]' | grep -q True || fail "the cut model"

# amounts; a kind with a ratio of its own keeps it
expect_out "budget" "$ESPALIER" prune "$MODEL" --method sg --target params=350k --fc-ratio 0.25 --dry-run
expect_out '"plan"' "$ESPALIER" prune "$MODEL" --method sg --target params=0.7 --conv-ratio 0.125 --dry-run --json
json 'd["plan"]["ratio"]["conv"] == 0.125 and d["after"]["params"] <= 0.7 * d["before"]["params"]' | grep -q True ||
    fail "--conv-ratio beside --target"

# latency: predicted by the table, which is kept; cut and measured
expect_out '"latency"' "$ESPALIER" prune "$MODEL" --method filter --target params=0.8 --measure --dry-run --json
json '{"measured_ms", "measured_before_ms", "prediction_error", "machine"} <= set(d["budget"]["latency"])' |
    grep -q True || fail "keys of latency"
[ -s cache/espalier/latency.json ] || fail "the latency table was not kept"
expect_out '"latency"' "$ESPALIER" prune "$MODEL" --method filter --target params=0.8 --measure --dry-run --json
json 'd["budget"]["latency"]["table_measured"]' | grep -qx 0 || fail "the second run measured layers again"
expect_out "measured" "$ESPALIER" prune "$MODEL" --method filter --target params=0.8 --measure --fresh-table --dry-run

expect 2 "out of reach" "$ESPALIER" prune "$MODEL" --method wsp --target params=0.0001 --dry-run
expect 2 "params" "$ESPALIER" prune "$MODEL" --method wsp --target parms=0.5 --dry-run
expect 2 "expected a share" "$ESPALIER" prune "$MODEL" --method wsp --target macs=half --dry-run
expect 2 "exclude each other" "$ESPALIER" prune "$MODEL" --method wsp --ratio 0.5 --target macs=0.5 --dry-run
expect 2 "without --target" "$ESPALIER" prune "$MODEL" --method wsp --ratio 0.5 --distribution saliency --dry-run
expect 2 "saliency" "$ESPALIER" prune "$MODEL" --method wsp --target macs=0.5 --distribution salency --dry-run
expect 2 "--sensitivity FILE is missing" "$ESPALIER" prune "$MODEL" --method wsp --target macs=0.5 \
    --distribution sensitivity --dry-run
expect 1 "nowhere" "$ESPALIER" prune "$MODEL" --method wsp --target macs=0.5 --sensitivity nowhere --dry-run
expect_out "may remain" "$ESPALIER" prune --help

# The page names every target that is known.
"$ESPALIER" prune --help >help.txt
for target in $("$ESPALIER" prune "$MODEL" -n --method wsp --target nosuch=1 2>&1 | sed 's/.*(known: \(.*\)).*/\1/' | tr -d ','); do
    grep -q -- "--target.*[ ,]$target[ ,;]" help.txt || fail "--help does not name the target $target"
done
