"""The page of docs/how_to/explore.md: four small networks that have learned to remove noise, explored on one photograph.

Command: python docs/pictures/interactive_page.py [FILE.html]

Each network is trained for some seconds on a CPU core. Its picture is a screenshot by
chromium --headless --hide-scrollbars --window-size=1240,830 --screenshot=interactive_page.png 'file:///.../FILE.html#y=0.5&x=0.48&layer=1'

The photograph (https://www.flickr.com/photos/vultilion/6056698931, CC BY 2.0) comes with scikit-learn.
"""

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import unified_extractor as ux

NOISE, STEPS, BATCH, CROP = 0.2, 200, 4, 32
SPECS = {
    "deformable convolution v2": "deformable_convolution(2)",
    "involution": "involution(kernel_size=5, channels_per_group=8)",
    "outlook attention": "outlook_attention(heads=2)",
    "unified": "unified",
}


def network(spec: str) -> nn.Module:
    """Return a network of two extractors between convolutions."""
    extractors = [part for _ in range(2) for part in (ux.ExtractorConv2d(16, 16, spec), nn.BatchNorm2d(16), nn.GELU())]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), *extractors, nn.Conv2d(16, 3, 1))


def trained(spec: str, photo: Tensor) -> nn.Module:
    """Return the network after it has learned to remove noise from crops of the photograph."""
    torch.manual_seed(0)
    made = network(spec)
    optimizer = torch.optim.AdamW(made.parameters(), 5e-3)
    for _ in range(STEPS):
        places = torch.randint(0, photo.shape[2] - CROP, (BATCH, 2)).tolist()
        clean = torch.cat([photo[..., y : y + CROP, x : x + CROP] for y, x in places])
        loss = F.mse_loss(made(clean + NOISE * torch.randn_like(clean)), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{spec}: mean squared error of the last batch {loss.item():.4f}", flush=True)
    return made


def main(file: str = "explore.html") -> None:
    """Train the networks and write the page."""
    torch.set_num_threads(1)
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None, :, :426, 100:526].float() / 255
    photo = F.interpolate(pixels, (64, 64), mode="area")
    networks = {name: trained(spec, photo) for name, spec in SPECS.items()}
    ux.visualize.explore(networks, photo, file, shown=pixels[0].permute(1, 2, 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
