# Bad usage and bad input: one line that says what, the documented exit status, no half-written file.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/lenet5.onnx

expect 2 "did you mean 'espalier inspect'" "$ESPALIER" inspcet "$MODEL"
expect 2 "did you mean --ratio" "$ESPALIER" prune "$MODEL" --ration 0.4
expect 2 "[0, 1)" "$ESPALIER" prune "$MODEL" --method wsp --ratio 1 --dry-run
expect 2 "[0, 1)" "$ESPALIER" prune "$MODEL" --method wsp --ratio -0.1 --dry-run
expect 2 "--groups" "$ESPALIER" prune "$MODEL" --method sg --ratio 0.5 --groups 0 --dry-run
expect 2 "method" "$ESPALIER" prune "$MODEL" --method wsb --ratio 0.5 --dry-run
expect 2 "--method is missing" "$ESPALIER" prune "$MODEL" --ratio 0.5 --dry-run
expect 2 "--ratio is missing" "$ESPALIER" prune "$MODEL" --method wsp --dry-run
expect 2 "-o OUT.onnx is missing" "$ESPALIER" prune "$MODEL" --method wsp --ratio 0.5
expect 2 "conv1" "$ESPALIER" prune "$MODEL" --method wsp --ratio 0.5 --layer convl=0.2 --dry-run
expect 2 "--data" "$ESPALIER" eval "$MODEL"
expect 2 "[no-]winograd" "$ESPALIER" bench "$MODEL" --kernels plain,no-vinograd
expect 2 "--epochs" "$ESPALIER" train "$MODEL" -o x.onnx --data idx:.
expect 2 "l1" "$ESPALIER" saliency "$MODEL" --criterion l3
expect 2 "conv1" "$ESPALIER" saliency "$MODEL" --layer conv9
expect 2 "shape" "$ESPALIER" inspect "$MODEL" --input shape:0x3
expect 1 "missing.onnx" "$ESPALIER" inspect missing.onnx
expect 1 "directory" "$ESPALIER" inspect .

: >empty.onnx
expect 1 "empty.onnx" "$ESPALIER" inspect empty.onnx
echo "this is not a protocol buffer at all" >text.onnx
expect 1 "text.onnx" "$ESPALIER" inspect text.onnx
head -c 100000 "$MODEL" >truncated.onnx
expect 1 "truncated.onnx" "$ESPALIER" eval truncated.onnx --data fashion-mnist

expect 1 "nowhere" "$ESPALIER" eval "$MODEL" --data idx:nowhere
expect 2 "fashion-mnist" "$ESPALIER" eval "$MODEL" --data fashion-mnits
expect 1 "no/such/dir" "$ESPALIER" prune "$MODEL" --method wsp --ratio 0.5 -o no/such/dir/x.onnx

expect 1 "malformed JSON" "$ESPALIER" prune "$MODEL" --plan "$MODEL" --dry-run
echo '{"version":1,"method":"sg","rato":{}}' >plan.json
expect 2 "rato" "$ESPALIER" prune "$MODEL" --plan plan.json --dry-run
[ ! -e x.onnx ] || fail "a failed command left a file"

expect_out "Options" "$ESPALIER" prune --help
expect_out "Commands" "$ESPALIER" --help
expect_out "espalier " "$ESPALIER" --version
for command in inspect saliency eval bench prune train compare run; do
    expect_out "Example" "$ESPALIER" $command --help
done
