# Training from the command line: a result that evaluates, and Ctrl-C that keeps the best version. Needs Fashion-MNIST.
. "$(dirname "$0")/lib.inc"
[ -d /usr/share/datasets/fashion-mnist ] || { echo "skipped: dataset-fashion-mnist is not installed"; exit 77; }
MODEL=$SAMPLES/lenet5.onnx

expect_out '"top1"' "$ESPALIER" eval "$MODEL" --data fashion-mnist --limit 500 --json
json '{"images","top1","top5","loss","images_per_s"} <= set(d) and d["images"] == 500' | grep -q True || fail "keys of eval"
json 'd["top1"] > 85' | grep -q True || fail "the sample model has lost its accuracy"

expect_out "wrote" "$ESPALIER" prune "$MODEL" -o cut.onnx --method wsp --ratio 0.5
expect_out '"best"' "$ESPALIER" train cut.onnx -o tuned.onnx --data fashion-mnist --epochs 0.02 --limit 500 --lr 0.01 --json
json 'd["steps"] > 3 and not d["interrupted"]' | grep -q True || fail "result of train"
expect_out "top-1" "$ESPALIER" eval tuned.onnx --data fashion-mnist --limit 500

# wait_for_data PID: until the program has read its data (its memory has grown)
wait_for_data() {
    tries=0
    while [ "$(awk '/VmRSS/ {print $2}' /proc/$1/status 2>/dev/null || echo 999999)" -lt 60000 ]; do
        tries=$((tries + 1))
        [ $tries -lt 200000 ] || fail "did not load its data"
    done
}

# an interrupt during training leaves the best version so far and exits 130
"$ESPALIER" train cut.onnx -o stopped.onnx --data fashion-mnist --epochs 500 --limit 100 --json >out.txt 2>err.txt &
pid=$!
wait_for_data $pid
kill -INT $pid
status=0
wait $pid || status=$?
[ $status -eq 130 ] || { cat err.txt; fail "exit status $status after an interrupt, expected 130"; }
expect_out "top-1" "$ESPALIER" eval stopped.onnx --data fashion-mnist --limit 500

# an interrupt during the first evaluation, which takes seconds here: the file is there, and no figure is made up
"$ESPALIER" train "$SAMPLES/resnet20.onnx" -o early.onnx --data fashion-mnist --epochs 1 --threads 1 >out.txt 2>err.txt &
pid=$!
wait_for_data $pid
kill -INT $pid
status=0
wait $pid || status=$?
[ $status -eq 130 ] || { cat err.txt; fail "exit status $status after an early interrupt, expected 130"; }
grep -q 'nothing was measured yet' out.txt || { cat out.txt; fail "what is said of a training that measured nothing"; }
expect_out '"layers"' "$ESPALIER" inspect early.onnx --json
