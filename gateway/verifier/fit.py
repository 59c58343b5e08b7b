"""Learns the small networks. Only training imports this: it needs torch."""

from typing import Any

import numpy as np
import torch

from gateway.verifier.network import Array, Network

BATCH, RATE, DECAY, DROPOUT = 256, 2e-3, 1e-2, 0.3


def fit(
    inputs: Array, duplicate: Any, hidden: int, epochs: int, networks: int = 3, decay: float = DECAY
) -> Network:
    """`networks` of one hidden layer for n pairs, (n, d) inputs and (n,) labels."""
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-4)
    x = torch.from_numpy((inputs - mean) / scale)
    y = torch.from_numpy(np.asarray(duplicate, dtype=np.float32))
    learned = [_learn(x, y, hidden, epochs, decay, seed) for seed in range(networks)]
    w1, b1, w2, b2 = (np.stack([weights[at] for weights in learned]) for at in range(4))
    return Network(mean, scale, w1, b1, w2, b2)


def _learn(x: Any, y: Any, hidden: int, epochs: int, decay: float, seed: int) -> list[Array]:
    torch.manual_seed(seed)
    first, second = torch.nn.Linear(x.shape[1], hidden), torch.nn.Linear(hidden, 1)
    net = torch.nn.Sequential(
        torch.nn.Dropout(0.1), first, torch.nn.ReLU(), torch.nn.Dropout(DROPOUT), second
    ).train()
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x[rows]).squeeze(1), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    weights = (first.weight.T, first.bias, second.weight[0], second.bias[0])
    return [np.ascontiguousarray(weight.detach().numpy()) for weight in weights]
