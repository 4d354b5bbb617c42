"""Batches come from worker processes, forked and spawned; one more process does some arithmetic."""
import multiprocessing

import torch
from torch.utils.data import DataLoader, Dataset


class Squares(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return torch.full((3,), float(i) / 64), torch.tensor([float(i) / 64])


def double(x):
    return 2 * x


if __name__ == "__main__":
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for method in ("fork", "spawn"):
        for x, y in DataLoader(Squares(), batch_size=16, shuffle=True, num_workers=2, multiprocessing_context=method):
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [1, 2]), f"{loss.item()!r}")
