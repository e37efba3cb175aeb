"""The work of `cargo run -p datasets --example loader_speed` in PyTorch: decode, view pair (random resized crop, flip,
brightness; the second view erased and shuffled in 2×2 tiles), normalise, batch. Prints `work,images_per_s`, the median of
the epochs after the first.

usage: loader.py FILE.parquet SIZE [--workers 2] [--batch 16] [--epochs 5]

Needs torch, torchvision, Pillow and pyarrow.
"""

import argparse
import io
import statistics
import time

import pyarrow.parquet
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image


class ViewPairs(torch.utils.data.Dataset):
    def __init__(self, path, size):
        table = pyarrow.parquet.read_table(path, columns=["image", "label", "split"])
        rows = zip(*(table[name].to_pylist() for name in ("image", "label", "split")))
        self.rows = [(image, label) for image, label, split in rows if split == "train"]
        self.half = size // 2
        self.view = transforms.Compose([
            transforms.RandomResizedCrop(size, scale=(0.67, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.3),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])
        self.erase = transforms.RandomErasing(p=1, scale=(0.15, 0.45))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        image, label = self.rows[index]
        image = Image.open(io.BytesIO(image)).convert("RGB")
        anchor, positive = self.view(image), self.erase(self.view(image))
        half = self.half
        tiles = [positive[:, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
        a, b, c, d = torch.randperm(4).tolist()
        top, bottom = torch.cat([tiles[a], tiles[b]], 2), torch.cat([tiles[c], tiles[d]], 2)
        return anchor, torch.cat([top, bottom], 1), label


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("size", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        ViewPairs(arguments.file, arguments.size),
        arguments.batch,
        shuffle=True,
        num_workers=arguments.workers,
        persistent_workers=arguments.workers > 0,
    )
    rates = []
    for _ in range(arguments.epochs + 1):
        start = time.perf_counter()
        images = sum(len(labels) for _, _, labels in loader)
        rates.append(images / (time.perf_counter() - start))
    print("work,images_per_s")
    print(f"loader {arguments.size} view pairs workers={arguments.workers},{statistics.median(rates[1:]):.1f}")


if __name__ == "__main__":
    main()
