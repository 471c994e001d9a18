"""dca: Dual Chunk Attention (arXiv 2402.17463, ChunkLlama): positions start anew in every chunk.

Not trained, for texts of any length. Of the base's window C, the authors take chunk_size = 3/4 C, local_window = C / 8.
"""

from methods import PositionRule, option


class Method(PositionRule):
    chunk_size: int | None = option(None, "s, the largest position, tokens [3/4 C]", int)
    local_window: int | None = option(None, "w, keys nearer than this always keep their distance, tokens [C / 8]", int)

    def __post_init__(self):
        C = self.original_length
        self.chunk_size = self.chunk_size or 3 * C // 4
        self.local_window = self.local_window or C // 8
        if self.chunk_size > C or 2 * self.local_window > self.chunk_size:
            given = f"--chunk_size {self.chunk_size} and --local_window {self.local_window}"
            raise ValueError(f"{given}: give a chunk of up to the base's window, {C}, and a window of up to half of it")
