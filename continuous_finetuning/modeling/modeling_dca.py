"""Dual Chunk Attention (arXiv 2402.17463) for any Llama: positions start anew in every chunk.

With s = chunk_size, w = local_window and chunks of c = s - w tokens, key k has the position k mod c. Query i sees every
key k <= i, in one softmax, from the position
    i mod c towards its own chunk, min(i mod c + c, s) towards the chunk before, s towards earlier chunks.
The first, and the second while i mod c < w, give the distance i - k; in all other cases the query is at s.
"""

from .modeling_near_far import NearFarConfig, model_classes


class DCAConfig(NearFarConfig):
    model_type = "dca"
    attribute_map = {"window": "chunk_size"}
    chunk_size: int = 3072
    local_window: int = 512

    def first_near_key(self, index):
        # the start of the query's chunk; for the first `local_window` queries of a chunk, that of the one before
        step = self.chunk_size - self.local_window
        return (index - self.local_window) // step * step

    def far_query_position(self, index):
        return index.new_full(index.shape, self.chunk_size)

    def far_key_position(self, index):
        return index % (self.chunk_size - self.local_window)


DCAModel, DCAForCausalLM, AUTO_MAP = model_classes(DCAConfig)
