// What is measured, and how fast it is meant to be: one list. A case without a landmark is measured for information.
"use strict";

const IMAGE = [3, 224, 224], SMALL = [3, 32, 32];

// name, shape of an image, batches, landmark: peer's time / our time, at least
const inference = [
    { model: "vgg16", shape: IMAGE, batches: [1, 8], landmark: 2.2 },
    { model: "resnet50", shape: IMAGE, batches: [1, 8], landmark: 1.2 },
    { model: "densenet121", shape: IMAGE, batches: [1, 8], landmark: 1.45 },
    { model: "densenet201", shape: IMAGE, batches: [1, 8], landmark: 1.45 },
    { model: "resnet20", shape: SMALL, batches: [1, 32], landmark: 1.5 },
    { model: "lenet5", shape: [1, 28, 28], batches: [1, 32] },
    { model: "mobilenetv2_imagenet", shape: IMAGE, batches: [1], shared: true },
    { model: "squeezenet1.0_imagenet", shape: [3, 227, 227], batches: [1], shared: true },
];

const training = [
    { model: "resnet20", shape: SMALL, batch: 128, landmark: 1.25 },
    { model: "resnet50", shape: IMAGE, batch: 16, landmark: 1.15 },
    { model: "lenet5", shape: [1, 28, 28], batch: 128 },
];

// ResNet-50 with masks of one-shot self-grouping: whole network against onnxruntime on the dense one
const grouped = [
    { ratio: 0.6, landmark: 1.75 },
    { ratio: 0.7, landmark: 2.2 },
    { ratio: 0.8, landmark: 2.8 },
];

// ResNet-20 cut by self-grouping: steps of training against those of the dense network, dense time / time at least
const groupedTraining = [
    { ratio: 0.5, batch: 128, landmark: 0.6, hasPeer: true },
    { ratio: 0.8, batch: 128, landmark: 0.6 },
];

module.exports = {
    inference, training, grouped, groupedTraining,
    groupCount: 16, fcRatio: 0.6,
    theoryShare: 0.75, // of the theoretical speed-up, summed over the pruned layers, against our direct dense kernels
    efficiency: 0.9, // time on one thread / (threads x time on several), ResNet-50
    inferenceMemory: 1.3, // peak / (weights + live activations), at most
    trainingMemory: 1.2, // peak / PyTorch's, at most
    kmeans: 4,
    kmeansInertia: 1.002,
    previewMs: 150, // of all layers of ResNet-50 when only ratios have changed, milliseconds at most
    selection: 2, // time / one read of the weights at memory bandwidth, at most
};
