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

# what the best was chosen by: training images held back, unless the user says otherwise; the test comes after that
expect_out '"best"' "$ESPALIER" train cut.onnx -o tuned.onnx --data fashion-mnist --epochs 0.02 --limit 500 --json
json '[d["measured_on"], d["validation_from"], d["test"]["images"], d["best"]["images"]]' |
    grep -qF "['validation', '6000 of 60000 training images, held back by seed 0', 500, 500]" || { cat out.txt; fail "what was validated on"; }
expect_out '"best"' "$ESPALIER" train cut.onnx -o tuned.onnx --data fashion-mnist --epochs 0.01 --limit 300 --validate-on-test --json
json '[d["measured_on"], d["test"]]' | grep -qF "['test', None]" || fail "--validate-on-test"
expect_out '5400 of 60000' "$ESPALIER" train cut.onnx -o tuned.onnx --data fashion-mnist --epochs 0.01 --limit 300 --validation 0.09 --seed 4
expect_out "none: all 60000 images train" "$ESPALIER" train cut.onnx -o newest.onnx --data fashion-mnist --epochs 0.01 --limit 300 --validation none
! grep -qE "^(before|best)" out.txt || fail "nothing is measured between epochs"
grep -q "^test  " out.txt || fail "the newest weights are measured on the test images"
expect 2 "not both" "$ESPALIER" train cut.onnx -o x.onnx --data fashion-mnist --epochs 1 --validation 0.1 --validate-on-test
expect 2 "between 0 and 1" "$ESPALIER" train cut.onnx -o x.onnx --data fashion-mnist --epochs 1 --validation 1.5

# a small set for the many short runs below: the first images of Fashion-MNIST
/usr/bin/python3 - <<'END'
import gzip, os, struct
source = "/usr/share/datasets/fashion-mnist"
os.mkdir("small")
for name, count in (("train", 1000), ("t10k", 200)):
    for kind, head, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
        with gzip.open(f"{source}/{name}-{kind}-ubyte.gz") as file:
            data = file.read(head + count * size)
        with open(f"small/{name}-{kind}-ubyte", "wb") as file:
            file.write(data[:4] + struct.pack(">I", count) + data[8:])
END

# bad schedules, optimizers, layers, intervals
bad() { expect 2 "$@" --epochs 1 --data idx:small -o x.onnx; }
bad "did you mean 'cosine'" "$ESPALIER" train cut.onnx --schedule cosin
bad "learning rate -1" "$ESPALIER" train cut.onnx --schedule '{"kind":"cosine","lr":-1}'
bad "did you mean 'warmup'" "$ESPALIER" train cut.onnx --schedule '{"kind":"cosine","warmpu":1}'
bad "belong there" "$ESPALIER" train cut.onnx --schedule '{"kind":"cosine"}' --warmup 1
bad "without milestones" "$ESPALIER" train cut.onnx --schedule multistep
bad "did you mean 'adamw'" "$ESPALIER" train cut.onnx --optimizer adamww
bad "did you mean 'frozen'" "$ESPALIER" train cut.onnx --norm frozn
bad "did you mean 'conv1'" "$ESPALIER" train cut.onnx --freeze cnov1
bad "such as 200s" "$ESPALIER" train cut.onnx --checkpoint x.ckpt --checkpoint-every 20
bad "--checkpoint FILE" "$ESPALIER" train cut.onnx --checkpoint-every 20s
[ ! -e x.onnx ] || fail "a failed command left a file"

# a diverging training names the layer, keeps the best version, fails
expect 1 "first in the" "$ESPALIER" train cut.onnx -o diverged.onnx --data idx:small --epochs 1 --limit 200 --lr 900 --max-loss 0
expect_out "top-1" "$ESPALIER" eval diverged.onnx --data idx:small
expect 1 "nothing was written to never.onnx" "$ESPALIER" train cut.onnx -o never.onnx --data idx:small --epochs 1 --validation none --lr 900 --max-loss 3
[ ! -e never.onnx ] || fail "a training without a first version wrote one"

# checkpoints: killed at any moment, gone on with another number of threads, the same bytes as a run in one go
RUN="$ESPALIER train $SAMPLES/lenet5.onnx --data idx:small --epochs 3 --train-limit 700 --batch 50 --limit 200 --crop 2 --lr 0.05 --optimizer adamw --ema 0.9 --json"
$RUN -o whole.onnx --threads 2 >out.txt 2>err.txt || { cat err.txt; fail "a run in one go"; }
cp out.txt whole.json
# kill_after N: begins or goes on, and kills the program once it has written N lines of progress more
kill_after() {
    resume=
    [ ! -e run.ckpt ] || resume="--resume run.ckpt"
    rm -f log.jsonl
    $RUN -o pieces.onnx --threads $1 --checkpoint run.ckpt --checkpoint-every 3steps --log log.jsonl --log-every 1 $resume >out.txt 2>err.txt &
    pid=$!
    tries=0
    while [ "$(cat log.jsonl 2>/dev/null | grep -c '"event":"progress"')" -lt "$2" ] && kill -0 $pid 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 100000 ] || fail "no progress"
    done
    kill -KILL $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
}
kill_after 1 5
[ -e run.ckpt ] || fail "no checkpoint after a kill"
kill_after 2 12
kill_after 1 1
kill_after 2 9
$RUN -o pieces.onnx --threads 1 --resume run.ckpt >out.txt 2>err.txt || { cat err.txt; fail "going on"; }
cmp whole.onnx pieces.onnx || fail "a resumed run is not the uninterrupted one"
json 'd["resumed_step"] > 2 and d["steps"] == 42' | grep -q True || { cat out.txt; fail "what is said of a resumed run"; }
json '[{k: e[k] for k in e if k not in ("seconds", "images_per_s", "validation")} for e in d["epochs"]]' >pieces.txt
cp whole.json out.txt
json '[{k: e[k] for k in e if k not in ("seconds", "images_per_s", "validation")} for e in d["epochs"]]' >whole.txt
cmp whole.txt pieces.txt || { cat whole.txt pieces.txt; fail "the history of a resumed run"; }

# what does not belong together is refused
expect 1 "another training: its seed" $RUN -o x.onnx --resume run.ckpt --seed 1
expect 1 "another training: its model" "$ESPALIER" train cut.onnx -o x.onnx --data idx:small --epochs 3 --resume run.ckpt
head -c 5000 run.ckpt >half.ckpt
expect 1 "half.ckpt: truncated checkpoint" $RUN -o x.onnx --resume half.ckpt
expect 1 "whole.onnx: no checkpoint" $RUN -o x.onnx --resume whole.onnx
expect 1 "none.ckpt" $RUN -o x.onnx --resume none.ckpt

# a disk that is full for checkpoints only (they are larger than the model): training goes on, the user is told
(
    trap '' XFSZ
    ulimit -f 5000
    $RUN -o full.onnx --threads 2 --checkpoint full.ckpt --checkpoint-every 10steps >out.txt 2>err.txt || { cat err.txt; fail "a run with a full disk"; }
)
[ "$(wc -l <err.txt)" -eq 1 ] && grep -q "warning: full.ckpt: .*training goes on" err.txt || { cat err.txt; fail "a full disk is told once"; }
json 'd["checkpoints"] == 0 and d["checkpoint_failures"] == 6 and "full.ckpt" in d["checkpoint_error"]' | grep -q True || { cat out.txt; fail "checkpoints of a full disk"; }
cmp whole.onnx full.onnx || fail "a full disk changed the result"
[ ! -e full.ckpt ] || fail "a half-written checkpoint"

# no two of the files are one, and each can be written: known before training
expect 2 "-o and --checkpoint: expected two files" $RUN -o one.onnx --checkpoint one.onnx
expect 2 "-o and --log: expected two files" $RUN -o one.onnx --log one.onnx
expect 1 "/nowhere/x.ckpt" $RUN -o x.onnx --checkpoint /nowhere/x.ckpt
# an output that cannot be written to any more: training goes on, and says where its work is
(
    trap '' XFSZ
    ulimit -f 100
    status=0
    "$ESPALIER" train cut.onnx --data idx:small --epochs 2 --limit 200 --validate-on-test -o late.onnx >out.txt 2>err.txt || status=$?
    [ $status -eq 1 ] || fail "exit status $status without room for the result"
)
grep -q "warning: late.onnx: .*training goes on" err.txt && [ "$(wc -l <err.txt)" -eq 2 ] || { cat err.txt; fail "what is said without room for the result"; }

# flags that would do nothing are refused
bad "--momentum is for optimizer sgd, found adam" "$ESPALIER" train cut.onnx --optimizer adam --momentum 0.9
bad "--beta1 is for optimizers adam and adamw" "$ESPALIER" train cut.onnx --beta1 0.9
bad "--gamma is for schedules step" "$ESPALIER" train cut.onnx --gamma 0.5
bad "--distill is for a training with --teacher" "$ESPALIER" train cut.onnx --distill 0.5
bad "--min-delta is for a training with --patience" "$ESPALIER" train cut.onnx --min-delta 0.5

# an image that cannot be read ends a training, which says where its work is; the spoiled ones come after the first epoch
/usr/bin/python3 - <<'END'
import os, random, struct, zlib
random.seed(3)
def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
def png(rows):
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 28, 28, 8, 0, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))
for root in ("set", "halfval"):
    for split, count in (("train", 24), ("test", 4), ("val", 4)):
        for label in ("a", "b"):
            os.makedirs(f"{root}/{split}/{label}")
            for i in range(count):
                rows = [bytes((200 if (x < 14) == (label == "a") else 20) + random.randrange(40) for x in range(28)) for y in range(28)]
                open(f"{root}/{split}/{label}/{i:02}.png", "wb").write(png(rows))
END
SPOILED="$ESPALIER train cut.onnx -o spoiled.onnx --data folder:set?cache=0 --batch 8 --replace-classifier --epochs 100000 --checkpoint spoiled.ckpt --log spoiled.jsonl"
$SPOILED >out.txt 2>err.txt &
pid=$!
tries=0
while ! grep -q '"epoch":[1-9].*"is_best":true' spoiled.jsonl 2>/dev/null && kill -0 $pid 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100000 ] || fail "no epoch"
done
for image in set/train/a/*.png; do
    : >$image
done
status=0
wait $pid || status=$?
[ $status -eq 1 ] || { cat err.txt; fail "exit status $status after images were spoiled"; }
grep -q 'set/train/a/.*leaves bad images out; the best version so far, of epoch [0-9]*, is in spoiled.onnx; --resume spoiled.ckpt goes on' err.txt ||
    { cat err.txt; fail "what is said of a training that met a bad image"; }
expect_out '"layers"' "$ESPALIER" inspect spoiled.onnx --json

# validation images of the data's own that cannot be used are not replaced by training images
rm halfval/val/?/*.png
expect 1 "halfval/val/a" "$ESPALIER" train cut.onnx -o half.onnx --data folder:halfval --replace-classifier --epochs 1
expect 1 "halfval/val/a" "$ESPALIER" train cut.onnx -o half.onnx --data folder:set --validation folder:halfval --replace-classifier --epochs 1
[ ! -e half.onnx ] || fail "a training without its validation images"

# the same labels under other pictures are another training
mkdir other
cp small/* other/
printf 'x' | dd of=other/train-images-idx3-ubyte bs=1 seek=400000 conv=notrunc 2>/dev/null
expect 1 "another training: its training data" "$ESPALIER" train $SAMPLES/lenet5.onnx -o x.onnx --data idx:other --epochs 3 --train-limit 700 --batch 50 --limit 200 --crop 2 --lr 0.05 --optimizer adamw --ema 0.9 --resume run.ckpt

# a group lasso shrinks weights
expect_out '"best"' "$ESPALIER" train cut.onnx -o lasso.onnx --data idx:small --epochs 1 --group-lasso 0.01 --json
expect 2 "[0, 1e+06]" "$ESPALIER" train cut.onnx -o x.onnx --data idx:small --epochs 1 --group-lasso -1

# the log: one object per line
$RUN -o pieces.onnx --log log.jsonl --log-every 7 >out.txt 2>err.txt || { cat err.txt; fail "a run with a log"; }
/usr/bin/python3 - <<'END' || fail "the log"
import json
events = [json.loads(line) for line in open("log.jsonl")]
names = [e["event"] for e in events]
assert names[0] == "start" and names[-1] == "end", names
assert names.count("progress") == 6 and names.count("epoch") == 4, names
assert {"epoch", "step", "loss", "top1", "top5", "lr", "images_per_s", "eta_s"} <= set(events[names.index("progress")])
END

# other classes: a new last layer, the rest as it was
expect_out '"best"' "$ESPALIER" train cut.onnx -o other.onnx --data idx:small --epochs 0.05 --limit 200 --classes 12 --json
expect_out '12' "$ESPALIER" inspect other.onnx
expect_out '"best"' "$ESPALIER" train other.onnx -o back.onnx --data idx:small --epochs 0.05 --limit 200 --replace-classifier --freeze 'conv*' --json

# wait_for EVENT PID: until the program has written such a line to its log
wait_for() {
    tries=0
    while ! grep -q "\"event\":\"$1\"" wait.jsonl 2>/dev/null && kill -0 $2 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 100000 ] || fail "no $1"
    done
}

# an interrupt during training leaves the best version so far and exits 130
"$ESPALIER" train cut.onnx -o stopped.onnx --data fashion-mnist --epochs 500 --limit 100 --log wait.jsonl --log-every 1 --json >out.txt 2>err.txt &
pid=$!
wait_for progress $pid
kill -INT $pid
status=0
wait $pid || status=$?
[ $status -eq 130 ] || { cat err.txt; fail "exit status $status after an interrupt, expected 130"; }
grep -q "resume" err.txt && fail "nothing to resume without a checkpoint"
expect_out "top-1" "$ESPALIER" eval stopped.onnx --data fashion-mnist --limit 500

# an interrupt during the first evaluation, which takes seconds here: the file is there, and no figure is made up
rm wait.jsonl
"$ESPALIER" train "$SAMPLES/resnet20.onnx" -o early.onnx --data fashion-mnist --epochs 1 --threads 1 --log wait.jsonl --checkpoint early.ckpt >out.txt 2>err.txt &
pid=$!
wait_for start $pid
kill -INT $pid
status=0
wait $pid || status=$?
[ $status -eq 130 ] || { cat err.txt; fail "exit status $status after an early interrupt, expected 130"; }
grep -q 'nothing was measured yet' out.txt || { cat out.txt; fail "what is said of a training that measured nothing"; }
grep -q 'early.onnx; --resume early.ckpt goes on' err.txt || { cat err.txt; fail "what is said of a training that can go on"; }
expect_out '"layers"' "$ESPALIER" inspect early.onnx --json
