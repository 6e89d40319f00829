import torch

from raysys.training.gram import task_gram
from raysys.training.parallel import Parallel


def test_gram_holds_the_inner_products_of_task_gradients():
    states = torch.randn(4, 3, 8, requires_grad=True)
    a, b = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    losses = torch.stack([(states * a).sum(), (states * b).sum(), torch.zeros((), requires_grad=True) * 1])
    gram = task_gram(losses, (states,), Parallel(0, 1, torch.device("cpu")))
    flat = torch.stack([a.flatten(), b.flatten(), torch.zeros(96)])
    assert torch.allclose(gram, flat @ flat.T, atol=1e-4)
    losses.sum().backward()  # the graph is still whole
    assert torch.allclose(states.grad, a + b)
