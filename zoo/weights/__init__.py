"""Public checkpoints -> our networks: recognised by their keys, mapped by tables, loaded strictly.

`known` names whole networks that can be downloaded.  `load` takes any file of train.py or of the sources in
`zoo.weights.layouts`, for a network or an encoder alone.  Every key is mapped or dropped by a row that says
so, or the file is refused.
"""

from zoo.weights.catalogue import Published, fetch, known, published
from zoo.weights.loading import Loaded, load

__all__ = ["Loaded", "Published", "fetch", "known", "load", "published"]
