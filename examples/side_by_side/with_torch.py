"""A training step in PyTorch: autograd, and torch.optim.Adam."""

import numpy as np
import torch
from problem import B1, B2, EPS, RATE, batches, load, start


def loss_fn(params, x, y):
    hidden = torch.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return torch.nn.functional.cross_entropy(logits, y)


def step(params, optimizer, x, y):
    optimizer.zero_grad()
    loss = loss_fn(params, x, y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(dtype=np.float32):
    params = {name: torch.tensor(p, requires_grad=True) for name, p in start(dtype).items()}
    optimizer = torch.optim.Adam(params.values(), lr=RATE, betas=(B1, B2), eps=EPS)
    return [step(params, optimizer, torch.tensor(x), torch.tensor(y)) for x, y in batches(*load(dtype))]
