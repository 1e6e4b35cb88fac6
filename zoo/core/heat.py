"""The loss of each pixel: where a network is wrong, and how sure of it.

It is minus the logarithm of the probability that the network gives to the pixel's true labels: of softmax's
to the true class, of sigmoids' to each class being there or not, all classes together.  So 0 is certain and
right, 0.7 is a coin's throw, 3 a true class with a probability of 5 %.  (The terms ce and bce of a training
loss are means of this over pixels, bce over classes too.)

K classes; (H, W) the image's size; (h, w) the model's output.
"""

import numpy as np
import torch
from torch import Tensor

from zoo.core import losses
from zoo.core.dataset import Sample
from zoo.core.masks import IGNORE, Labels, resize_mask
from zoo.core.predictor import Predictor


def pixel_loss(logits: Tensor, mask: np.ndarray, labels: Labels) -> np.ndarray:
    """The loss of each pixel, float32 (h, w), from logits (K, h, w) and a mask (h, w); nan where ignored."""
    truth = torch.from_numpy(np.ascontiguousarray(mask))[None].to(logits.device)
    target = losses.make_target(truth, labels)
    kind = losses.Softmax if target.planes is None else losses.Sigmoid
    y = kind(logits[None], target)
    loss: np.ndarray = y.cross_entropies().reshape(-1, *mask.shape).sum(0).float().cpu().numpy()
    if labels.task != "multilabel":
        loss[mask == IGNORE] = np.nan
    return loss


@torch.no_grad()
def loss_map(predictor: Predictor, sample: Sample) -> np.ndarray:
    """The loss of each pixel where the network answers: (h, w) of the resized image, or (H, W) by tiles."""
    labels, mask = predictor.labels, sample.mask
    if not predictor.preprocess.tile:
        logits = predictor.whole(sample.image)
        return pixel_loss(logits, resize_mask(mask, (logits.shape[1], logits.shape[2])), labels)
    loss = np.empty(mask.shape, np.float32)
    for y, x, logits in predictor.tiles(sample.image):
        part = mask[y : y + logits.shape[1], x : x + logits.shape[2]]
        h, w = part.shape
        loss[y : y + h, x : x + w] = pixel_loss(logits[:, :h, :w].contiguous(), part, labels)
    return loss
