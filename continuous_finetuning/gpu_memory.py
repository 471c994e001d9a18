"""Settings of PyTorch's memory allocator, to be imported before torch: long rows fragment a GPU's memory."""

import os

if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
