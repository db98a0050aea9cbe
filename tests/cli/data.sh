# Data sets of files: `data` describes and reads them, `eval` measures on them at the model's size, bad images are named.
. "$(dirname "$0")/lib.inc"
IMAGES=$ESP_SOURCE_DIR/tests/unit/io/images
MODEL=$SAMPLES/lenet5.onnx

mkdir -p set/test/cat set/test/dog
cp "$IMAGES/rgb.png" "$IMAGES/grey.png" "$IMAGES/rgb420.jpg" set/test/cat
cp "$IMAGES/palette.png" "$IMAGES/cmyk.jpg" "$IMAGES/progressive.jpg" set/test/dog

expect_out "images         6 of 3x23x29" "$ESPALIER" data folder:set
expect_out "cat                          3 images" "$ESPALIER" data folder:set --read
expect_out "images         6 of 1x28x28" "$ESPALIER" data folder:set --model "$MODEL"
expect_out "shorter side to 32, centre 28x28, bilinear, grey" "$ESPALIER" eval "$MODEL" --data folder:set
expect_out "shorter side to 30, centre 28x28, bicubic, grey" "$ESPALIER" eval "$MODEL" --data "folder:set?resize=30" \
    --interpolation bicubic --crop 28
expect_out "read           6 images" "$ESPALIER" data folder:set --augment "crop=2,flip,resized=0.5,jitter=0.3,mixup=0.2"
expect_out "6000 of 60000 images" "$ESPALIER" data "fashion-mnist?val=0.1" --split validation
expect_out "skip-bad" "$ESPALIER" data --help

# the same images for any number of threads
for threads in 1 2 5; do
    "$ESPALIER" eval "$MODEL" --data folder:set --threads $threads --json >out.txt
    json "d['loss'], d['top1']" >loss.$threads
done
cmp loss.1 loss.2
cmp loss.1 loss.5

# bad images: named, or left out and counted
head -c 300 "$IMAGES/progressive.jpg" >set/test/dog/cut.jpg
echo "not a picture" >set/test/cat/text.png
expect 1 "set/test/cat/text.png: starts with bytes 6e 6f" "$ESPALIER" eval "$MODEL" --data folder:set
"$ESPALIER" eval "$MODEL" --data folder:set --skip-bad --json >out.txt
[ "$(json "d['images'], d['skipped'], len(d['skipped_messages'])")" = "6 2 2" ] || fail "not two bad images"
"$ESPALIER" data folder:set --read --skip-bad >out.txt 2>err.txt
grep -q "left out       2 bad images" out.txt || fail "bad images are not counted"
grep -q "left out: set/test/dog/cut.jpg: damaged JPEG" err.txt || fail "a bad image is not named"
"$ESPALIER" eval "$MODEL" --data folder:set --skip-bad --json >out.txt
for threads in 1 3; do # what is left is what was there before
    "$ESPALIER" eval "$MODEL" --data folder:set --skip-bad --threads $threads --json >out.txt
    json "d['loss'], d['top1']" >loss.bad
    cmp loss.1 loss.bad
done

mkdir set/test/empty
expect 1 "set/test/empty: no images" "$ESPALIER" eval "$MODEL" --data folder:set
rmdir set/test/empty
expect 1 "no train images: no directory set/train" "$ESPALIER" data folder:set --split train
expect 2 "did you mean 'resize'" "$ESPALIER" data "folder:set?resise=3"
expect 2 "found 'all'" "$ESPALIER" data folder:set --split all
expect 2 "'flop'" "$ESPALIER" data folder:set --augment flop
expect 2 "exclude each other" "$ESPALIER" eval "$MODEL" --data folder:set --train-split --validation-split
expect 1 "1x28x28" "$ESPALIER" eval "$MODEL" --data "folder:set?channels=3" --skip-bad
