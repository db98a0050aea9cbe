#!/usr/bin/python3
"""Writes torch_training.h: what PyTorch's optimizers, schedules and losses do, as numbers for our tests.
Run with Debian's python3-torch (1.13):  /usr/bin/python3 torch_training.py > torch_training.h"""
import torch
import torch.nn.functional as F

torch.manual_seed(0)
COUNT, STEPS = 5, 6
START = [0.5, -1.25, 2.0, 0.03, -0.7]


def gradient(step, index):
    """The same formula is in the test: exact in float."""
    return ((step * 7 + index * 3) % 11 - 5) / 8.0


def number(value, digits):
    """A literal of C: of a float with 9 digits, of a double with 17."""
    text = f"{float(value):.{digits}g}"
    text = text if any(letter in text for letter in ".e") else text + ".0"
    return text + ("f" if digits == 9 else "")


def row(values, digits=9):
    return "{" + ", ".join(number(v, digits) for v in values) + "}"


def run(make):
    w = torch.tensor(START, requires_grad=True)
    optimizer = make([w])
    rows = []
    for step in range(STEPS):
        w.grad = torch.tensor([gradient(step, i) for i in range(COUNT)])
        optimizer.step()
        rows.append(row(w.detach()))
    return rows


print("/* Made by torch_training.py with PyTorch", torch.__version__.split("+")[0], "*/")
print("#ifndef ESP_TESTS_TORCH_TRAINING_H\n#define ESP_TESTS_TORCH_TRAINING_H\n")
print(f"enum {{ TORCH_COUNT = {COUNT}, TORCH_STEPS = {STEPS} }};")
print(f"static const float torch_start[TORCH_COUNT] = {row(START)};\n")
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "sgd_dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.05),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adam_decay": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}
for name, make in OPTIMIZERS.items():
    print(f"static const float torch_{name}[TORCH_STEPS][TORCH_COUNT] = {{")
    for line in run(make):
        print(f"    {line},")
    print("};")

# schedules: the rate of each epoch
EPOCHS = 12
print(f"\nenum {{ TORCH_EPOCHS = {EPOCHS} }};")


def rates(make, losses=None):
    w = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.4)
    scheduler = make(optimizer)
    found = []
    for epoch in range(EPOCHS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if losses is None:
            scheduler.step()
        else:
            scheduler.step(losses[epoch])
    return found


S = torch.optim.lr_scheduler
LOSSES = [2.0, 1.5, 1.49, 1.4899, 1.6, 1.4899, 1.48985, 1.2, 1.3, 1.3, 1.3, 1.3]
SCHEDULES = {
    "step": lambda o: S.StepLR(o, step_size=5, gamma=0.3),
    "multistep": lambda o: S.MultiStepLR(o, milestones=[2, 7], gamma=0.5),
    "exponential": lambda o: S.ExponentialLR(o, gamma=0.9),
    "cosine": lambda o: S.CosineAnnealingLR(o, T_max=EPOCHS, eta_min=0.01),
}
for name, make in SCHEDULES.items():
    print(f"static const double torch_{name}_lr[TORCH_EPOCHS] = {row(rates(make), 17)};")
print(f"static const double torch_losses[TORCH_EPOCHS] = {row(LOSSES, 17)};")
plateau = rates(lambda o: S.ReduceLROnPlateau(o, factor=0.5, patience=1, threshold=1e-3, cooldown=1, min_lr=0.15), LOSSES)
print(f"static const double torch_plateau_lr[TORCH_EPOCHS] = {row(plateau, 17)};")

# one-cycle: PyTorch's phases end at steps 0.25 * N - 1 and N - 1; ours at these shares of the way, so the rates
# are compared as functions of the share of a phase that is done
N = 41
w = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.4, momentum=0.9)
scheduler = S.OneCycleLR(optimizer, max_lr=0.4, total_steps=N, pct_start=11 / N, div_factor=20, final_div_factor=100)
cycle = []
for step in range(N):
    cycle.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    if step < N - 1:
        scheduler.step()
print(f"enum {{ TORCH_CYCLE_STEPS = {N}, TORCH_CYCLE_RISE = 10 }};")
print(f"static const double torch_cycle_lr[TORCH_CYCLE_STEPS] = {row(cycle, 17)};")

# losses: value (sum over images) and gradient of the mean
B, C = 3, 4
logits = torch.tensor([[1.5, -0.5, 0.25, 3.0], [0.0, 0.0, 0.0, 0.0], [-2.0, 4.0, 1.0, -1.0]], dtype=torch.float64)
teacher = torch.tensor([[0.5, 1.5, -1.0, 2.0], [3.0, 0.0, -3.0, 1.0], [0.0, 2.0, 2.0, 0.0]], dtype=torch.float64)
labels = torch.tensor([3, 0, 2])
other = torch.tensor([1, 2, 2])
share = torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64)
print(f"\nenum {{ TORCH_BATCH = {B}, TORCH_CLASSES = {C} }};")
print(f"static const float torch_logits[TORCH_BATCH * TORCH_CLASSES] = {row(logits.flatten())};")
print(f"static const float torch_teacher[TORCH_BATCH * TORCH_CLASSES] = {row(teacher.flatten())};")


def cross_entropy(z, y, smoothing):
    return F.cross_entropy(z, y, label_smoothing=smoothing, reduction="none")


def distilled(z):
    t = 3.0
    soft = F.kl_div(F.log_softmax(z / t, 1), F.softmax(teacher / t, 1), reduction="none").sum(1) * t * t
    return 0.6 * cross_entropy(z, labels, 0.1) + 0.4 * soft


TERMS = {
    "smooth": lambda z: cross_entropy(z, labels, 0.1),
    "mixed": lambda z: share * cross_entropy(z, labels, 0.0) + (1 - share) * cross_entropy(z, other, 0.0),
    "distilled": distilled,
}
for name, loss in TERMS.items():
    z = logits.clone().requires_grad_(True)
    values = loss(z)
    values.mean().backward()
    print(f"static const double torch_{name}_loss = {values.sum().item():.17g};")
    print(f"static const float torch_{name}_gradient[TORCH_BATCH * TORCH_CLASSES] = {row(z.grad.flatten())};")

# clipping: the gradient of a step after clip_grad_value_ and clip_grad_norm_
g = torch.tensor([3.0, -4.0, 12.0, 0.5])
p = torch.zeros(4, requires_grad=True)
p.grad = g.clone()
torch.nn.utils.clip_grad_norm_([p], 2.0)
print(f"\nstatic const float torch_clipped_norm[4] = {row(p.grad)};")
p.grad = g.clone()
torch.nn.utils.clip_grad_value_([p], 3.5)
torch.nn.utils.clip_grad_norm_([p], 4.0)
print(f"static const float torch_clipped_both[4] = {row(p.grad)};")
print("\n#endif")
