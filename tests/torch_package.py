"""A Core ML package as somebody else makes one: a PyTorch network, written by coremltools without leafport.

    python tests/torch_package.py OUT

Runs in the environment ``torch-2.13``. Writes ``OUT/torch.mlpackage`` (an image, labels, a scaling of pixels inside)
and ``OUT/logits.mlpackage`` (without labels), and ``OUT/answers.npz``: photographs (uint8 [N, H, W, 3]) with what
PyTorch answers to them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

NAME = "torch-2.13"
SIZE, LABELS = 64, ("ash", "birch", "cedar", "dogwood")
SCALE, BIAS = 1 / 255, (-0.485, -0.456, -0.406)


def main(out: Path) -> None:
    import coremltools
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Excite(nn.Module):
        """Squeeze and excitation."""

        def __init__(self, channels: int):
            super().__init__()
            self.inner = nn.Sequential(
                *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1)),
                nn.Hardsigmoid(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.inner(x)

    class Residual(nn.Module):
        def __init__(self, *inner: nn.Module):
            super().__init__()
            self.inner = nn.Sequential(*inner)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()),
        *(nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.BatchNorm2d(16), nn.ReLU6(), Excite(16)),
        *(nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=4), nn.SiLU()),
        Residual(nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.LeakyReLU(0.1), nn.Conv2d(32, 32, 1)),
        *(nn.AvgPool2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(32)),
        *(nn.Linear(32, 24), nn.PReLU(), nn.Dropout(), nn.Linear(24, len(LABELS))),
    )
    random = np.random.default_rng(0)
    colours, noise = random.integers(0, 256, (40, 1, 1, 3)), random.integers(-60, 60, (40, SIZE, SIZE, 3))
    photographs = (colours + noise).clip(0, 255).astype(np.uint8)
    scaled = torch.from_numpy(photographs).permute(0, 3, 1, 2).float() * SCALE + torch.tensor(BIAS).view(1, 3, 1, 1)
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(scaled)  # Normalisations get the statistics of these photographs.
        network.eval()
        logits = network(scaled)
        network[-1].bias -= logits.mean(0)
        network[-1].weight *= 3 / logits.std()
        network[-1].bias *= 3 / logits.std()
        probabilities = nn.Sequential(network, nn.Softmax(dim=1)).eval()
        answers, logits = probabilities(scaled).numpy(), network(scaled).numpy()
    image = coremltools.ImageType(name="photo", shape=(1, 3, SIZE, SIZE), scale=SCALE, bias=list(BIAS))
    example = torch.zeros(1, 3, SIZE, SIZE)
    settings = {"inputs": [image], "convert_to": "mlprogram", "minimum_deployment_target": coremltools.target.iOS16}
    for name, module, more in (
        ("torch", probabilities, {"classifier_config": coremltools.ClassifierConfig(list(LABELS))}),
        ("logits", network, {"compute_precision": coremltools.precision.FLOAT32}),
    ):
        traced = torch.jit.trace(module, example)
        coremltools.convert(traced, **settings, **more, skip_model_load=True).save(str(out / f"{name}.mlpackage"))
    np.savez(out / "answers.npz", photographs=photographs, answers=answers, logits=logits)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
