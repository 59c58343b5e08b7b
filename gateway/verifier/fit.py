"""Learns the small networks, and what weighs their logits. Only training imports this: it needs torch."""

from typing import Any

import numpy as np
import torch

from gateway.verifier.network import Array, Linear, Network

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
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x[rows]).squeeze(1), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    weights = (first.weight.T, first.bias, second.weight[0], second.bias[0])
    return [np.array(weight.detach().numpy(), order="C") for weight in weights]


def weigh(inputs: Array, duplicate: Any, ridge: float = 3.0, steps: int = 30) -> Linear:
    """Logistic regression by Newton's method, the ridge on standardised inputs; its probabilities are calibrated."""
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-4)
    x = np.concatenate([(inputs - mean) / scale, np.ones((len(inputs), 1))], axis=1).astype(np.float64)
    y = np.asarray(duplicate, dtype=np.float64)
    penalty = np.diag([ridge] * (x.shape[1] - 1) + [1e-6])
    weight = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weight, -30, 30)))
        slope = x.T @ (p - y) + penalty @ weight
        weight -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, slope)
    w = weight[:-1] / scale
    return Linear(w.astype(np.float32), np.array([weight[-1] - w @ mean], dtype=np.float32))
