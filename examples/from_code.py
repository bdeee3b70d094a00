"""A race of one's own module and loaders, from code: `python examples/from_code.py` (a few minutes)."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import downslope as ds
from downslope.referee import Result, from_module
from downslope.referee.data import fashion_mnist


class Net(nn.Module):
    """Two convolutions and a linear layer; a class without arguments is its own factory."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
        )
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10) of images (B, 28, 28)."""
        return self.head(self.features(images.view(-1, 1, 28, 28)).flatten(1))


def main(*, target: float = 0.8, steps: int = 400, trials: int = 4, seeds: int = 5, **options: object) -> Result:
    """Race three methods on Fashion-MNIST; `options` go to `ds.race`."""
    x, y, x_val, y_val = fashion_mnist()  # tensors; put your own data here
    train = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)  # the seed of a trial decides the order
    validation = DataLoader(TensorDataset(x_val, y_val), batch_size=1000)
    workload = from_module(Net, train, validation, loss="cross_entropy", target=target, steps=steps)
    return ds.race(workload, methods=["adamw", "sgd", "muon"], trials=trials, seeds=seeds, **options)


if __name__ == "__main__":
    result = main()
    print(result)  # the verdict and where the report is
    for standing in result.content["workloads"][0]["standings"]:
        print(standing["use"])  # the code to paste, with the tuned values
