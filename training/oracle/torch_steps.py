"""Exports the benchmark's models with PyTorch and times PyTorch's own training step.

python3 torch_steps.py export DIR   writes DIR/<name>.onnx
python3 torch_steps.py time NAME SECONDS THREADS   prints one JSON line {minMs, medianMs, steps}
"""
import json, statistics, sys, time, warnings
from pathlib import Path
import torch
from torch import nn
import torch.nn.functional as F
sys.argv, ARGV = [sys.argv[0], "."], sys.argv
from torch_models import Recurrent, Transformer, mobilenet

warnings.filterwarnings("ignore")
BATCH = 32


def mlp():
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)), (784,)


def cnn():
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(800, 10)), (1, 28, 28)


MODELS = {
    "mlp": mlp, "cnn": cnn,
    "mobilenet-v2-0.35": lambda: (mobilenet(), (3, 96, 96)),
    "transformer": lambda: (Transformer(vocabulary=1000, d=128, heads=4, steps=64, layers=2, classes=10), None),
    "lstm": lambda: (Recurrent("lstm", steps=20, n=32, h=64), (20, 32)),
}


def data(shape):
    return torch.randint(0, 1000, (BATCH, 64)) if shape is None else torch.randn(BATCH, *shape)


def export(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MODELS.items():
        torch.manual_seed(1)
        model, shape = make()
        torch.onnx.export(model.train(), (data(shape),), str(folder / f"{name}.onnx"), input_names=["input"],
                          output_names=["output"], dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
                          opset_version=17, do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING, dynamo=False)


def measure(name, seconds, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model, shape = MODELS[name]()
    x, y = data(shape), torch.arange(BATCH) % 5
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(5):
        step()
    times, end = [], time.time() + seconds
    while time.time() < end:
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"minMs": min(times), "medianMs": statistics.median(times), "steps": len(times)}))


if ARGV[1] == "export":
    export(Path(ARGV[2]))
else:
    measure(ARGV[2], float(ARGV[3]), int(ARGV[4]))
