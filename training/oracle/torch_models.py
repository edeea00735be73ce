"""Exports models with PyTorch and writes what PyTorch makes of them in ten training steps.

python3 torch_models.py OUT [MODEL ...]: for each model OUT/<name>.onnx and OUT/<name>.<optimizer>.json
with inputs, labels, and for float32 and float64 each: losses, the gradients of the first step and the
parameters after the last (base64 of float32).
"""
import base64, importlib.util, json, sys, warnings
from pathlib import Path
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

warnings.filterwarnings("ignore")
torch.set_num_threads(2)
OUT = Path(sys.argv[1])
ONLY = sys.argv[2:]
STEPS = 10


def mlp():
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 5)), (20,)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 5 * 5, 60), nn.ReLU(), nn.Linear(60, 5)), (1, 28, 28)


class Residual(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.c2, self.b2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.s = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b)) if a != b or stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x))))) + self.s(x))


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8, 1), Residual(8, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)), (3, 16, 16)


class Inverted(nn.Module):
    def __init__(self, a, b, stride, expand):
        super().__init__()
        h = a * expand
        layers = [] if expand == 1 else [nn.Conv2d(a, h, 1, bias=False), nn.BatchNorm2d(h), nn.ReLU6()]
        layers += [nn.Conv2d(h, h, 3, stride, 1, groups=h, bias=False), nn.BatchNorm2d(h), nn.ReLU6(),
                   nn.Conv2d(h, b, 1, bias=False), nn.BatchNorm2d(b)]
        self.body, self.skip = nn.Sequential(*layers), stride == 1 and a == b

    def forward(self, x):
        return x + self.body(x) if self.skip else self.body(x)


def mobilenet(width=0.35, classes=10):
    def c(n):
        v = max(8, int(n * width + 4) // 8 * 8)
        return v + 8 if v < 0.9 * n * width else v
    a = c(32)
    layers = [nn.Conv2d(3, a, 3, 2, 1, bias=False), nn.BatchNorm2d(a), nn.ReLU6()]
    for t, ch, n, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(n):
            layers.append(Inverted(a, c(ch), s if i == 0 else 1, t))
            a = c(ch)
    layers += [nn.Conv2d(a, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
               nn.Linear(1280, classes)]
    model = nn.Sequential(*layers)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
    return model


class UNetSlice(nn.Module):
    def __init__(self):
        super().__init__()
        self.d1, self.d2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up, self.u1 = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 4, 3, padding=1)
        self.u2, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 36 * 36, 5)

    def forward(self, x):
        a = F.leaky_relu(self.d1(x))
        b = F.relu(self.d2(a))
        y = F.relu(self.u1(torch.cat([self.up(b), a], 1)))
        y = self.u2(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))
        y = F.interpolate(y, scale_factor=1.5, mode="nearest")
        return self.head(torch.flatten(F.elu(y), 1))


class Recurrent(nn.Module):
    """A cell written out and unrolled, as the engine wants recurrence."""
    def __init__(self, kind, steps=6, n=8, h=12):
        super().__init__()
        self.kind, self.steps, self.h = kind, steps, h
        gates = 4 if kind == "lstm" else 3
        self.wx, self.wh, self.out = nn.Linear(n, gates * h), nn.Linear(h, gates * h), nn.Linear(h, 5)

    def forward(self, x):
        h = torch.zeros(x.shape[0], self.h).to(x)
        c = torch.zeros(x.shape[0], self.h).to(x)
        for t in range(self.steps):
            a, b = self.wx(x[:, t]), self.wh(h)
            if self.kind == "lstm":
                i, f, g, o = (a + b).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                ar, az, an = a.chunk(3, 1)
                br, bz, bn = b.chunk(3, 1)
                r, z = torch.sigmoid(ar + br), torch.sigmoid(az + bz)
                h = (1 - z) * torch.tanh(an + r * bn) + z * h
        return self.out(h)


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.n1, self.n2, self.heads = nn.LayerNorm(d), nn.LayerNorm(d), heads
        self.qkv, self.proj, self.f1, self.f2 = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5, -1)
        x = x + self.proj((a @ v).transpose(1, 2).reshape(b, t, d))
        return x + self.f2(F.gelu(self.f1(self.n2(x))))


class Transformer(nn.Module):
    def __init__(self, vocabulary=40, d=16, heads=2, steps=7, layers=2, classes=5):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, d), nn.Parameter(torch.randn(steps, d) * 0.1)
        self.blocks, self.norm, self.head = nn.ModuleList(Block(d, heads) for _ in range(layers)), nn.LayerNorm(d), nn.Linear(d, classes)

    def forward(self, ids):
        x = self.token(ids) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def layernorm_mlp():
    return nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 16), nn.LayerNorm(16), nn.SiLU(),
                         nn.Linear(16, 5)), (20,)


def autoencoder():
    return nn.Sequential(nn.Linear(20, 12), nn.Softplus(), nn.Linear(12, 4), nn.ELU(), nn.Linear(4, 12), nn.Hardswish(),
                         nn.Linear(12, 20)), (20,)


def separable():
    def block(a, b, s):
        return [nn.Conv2d(a, a, 3, s, 1, groups=a), nn.ReLU(), nn.Conv2d(a, b, 1), nn.PReLU(b)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), *block(8, 12, 2), *block(12, 16, 1), nn.AvgPool2d(4),
                         nn.GroupNorm(4, 16), nn.Flatten(), nn.Linear(16 * 2 * 2, 5)), (3, 16, 16)


class Shared(nn.Module):
    """One matrix used three times, once transposed: its gradients add up."""
    def __init__(self):
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(10, 10) * 0.3), nn.Linear(10, 5)

    def forward(self, x):
        return self.head(torch.tanh(torch.tanh(x @ self.w) @ self.w) @ self.w.t())


def instance_norm():
    return nn.Sequential(nn.Conv2d(2, 6, 3, 2, 1), nn.InstanceNorm2d(6, affine=True), nn.LeakyReLU(0.1),
                         nn.ReflectionPad2d(1), nn.Conv2d(6, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5)), (2, 12, 12)


def conv_bn():
    """Small enough to be recorded: batch normalization, a depthwise convolution, pooling."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2),
                         nn.Conv2d(4, 6, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 5)), (1, 8, 8)


class Layers(nn.Module):
    """Recurrent layers as PyTorch exports them: one node each, both directions, two of them."""
    def __init__(self, kind):
        super().__init__()
        self.layers = getattr(nn, kind)(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        y, _ = self.layers(x)
        return self.head(y.mean(1) + y[:, -1])


class CausalAttention(nn.Module):
    """What only the newer exporter writes: a mask and a scale lifted into the file, weights transposed and renamed."""
    def __init__(self, d=8, heads=2, steps=6):
        super().__init__()
        self.norm, self.qkv, self.head = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, 5)
        nn.init.normal_(self.norm.weight, 1, 0.2)
        self.heads, self.steps = heads, steps
        self.register_buffer("shift", torch.randn(d) * 0.3)

    def forward(self, x):
        d = x.shape[-1]
        q, k, v = self.qkv(self.norm(x) + self.shift).view(-1, self.steps, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.ones(self.steps, self.steps, dtype=torch.bool).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.head(y.transpose(1, 2).reshape(-1, self.steps, d).mean(1))


MODELS = {
    "mlp": mlp, "lenet": lenet, "resnet": resnet,
    "mobilenet-v2-0.35": lambda: (mobilenet(classes=5), (3, 64, 64)),
    "unet-slice": lambda: (UNetSlice(), (1, 12, 12)),
    "lstm-unrolled": lambda: (Recurrent("lstm"), (6, 8)), "gru-unrolled": lambda: (Recurrent("gru"), (6, 8)),
    "transformer": lambda: (Transformer(), None),
    "layernorm-mlp": layernorm_mlp, "autoencoder": autoencoder, "depthwise-separable": separable,
    "shared-weights": lambda: (Shared(), (10,)), "instance-norm": instance_norm, "conv-bn": conv_bn,
    "causal-attention-dynamo": lambda: (CausalAttention(), (6, 8)),
    "lstm-layers": lambda: (Layers("LSTM"), (7, 5)), "gru-layers": lambda: (Layers("GRU"), (7, 5)),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.002, eps=1e-5),
}
def b64(t):
    return base64.b64encode(np.ascontiguousarray(t.detach().numpy())).decode()


def run(model, optimizer_of, x, targets, dtype):
    """Ten steps; losses, the gradients of the first step, and the parameters after the last."""
    model.to(dtype)
    model.train()
    optimizer, losses, first = optimizer_of(model.parameters()), [], None
    cast = lambda t: t.to(dtype) if t.is_floating_point() else t
    for step in range(STEPS):
        out = model(cast(x[step]))
        goal = cast(targets[step])
        loss = F.mse_loss(out, goal) if goal.is_floating_point() else F.cross_entropy(out, goal)
        optimizer.zero_grad()
        loss.backward()
        first = first or {k: b64(p.grad.float()) for k, p in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "gradients": first, "end": {k: b64(p.float()) for k, p in model.named_parameters()}}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, make in MODELS.items():
        dynamo = name.endswith("-dynamo")
        if ONLY and name not in ONLY or dynamo and importlib.util.find_spec("onnxscript") is None:
            continue
        torch.manual_seed(7)
        model, shape = make()
        batch = 8
        x = torch.randint(0, 40, (STEPS, batch, 7)) if shape is None else torch.randn(STEPS, batch, *shape)
        y = torch.randint(0, 5, (STEPS, batch))
        targets = torch.randn(STEPS, batch, 20) if name == "autoencoder" else y
        start = {k: v.clone() for k, v in model.state_dict().items()}
        for optimizer_name, optimizer_of in OPTIMIZERS.items():
            model.load_state_dict(start)
            if optimizer_name == "sgd":
                model.train()
                if dynamo:
                    torch.onnx.export(model, (x[0],), str(OUT / f"{name}.onnx"), input_names=["input"], output_names=["output"],
                                      dynamic_shapes=({0: "batch"},), opset_version=18, dynamo=True, external_data=False)
                else:
                    torch.onnx.export(model, (x[0],), str(OUT / f"{name}.onnx"), input_names=["input"], output_names=["output"],
                                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}}, opset_version=17,
                                      do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING, dynamo=False)
                model.load_state_dict(start)
            plain = run(model, optimizer_of, x, targets, torch.float32)
            model.load_state_dict(start)
            exact = run(model, optimizer_of, x, targets, torch.float64)
            model.to(torch.float32)
            trace = {"batch": batch, "loss": "mean-squared-error" if name == "autoencoder" else "softmax-cross-entropy",
                     "inputs": b64(x), "integers": shape is None, "targets": b64(targets),
                     "start": {k: b64(v) for k, v in start.items() if v.dtype == torch.float32},
                     "float32": plain, "float64": exact}
            (OUT / f"{name}.{optimizer_name}.json").write_text(json.dumps(trace))
        print(name, flush=True)


if __name__ == "__main__":
    main()
